"""What events come to, in numbers. Pure: events in, counts out."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.model.status import AT_REST
from stageflow_durable.sinks.trail import Span, Trail

BUCKETS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
"""Upper bounds of how long attempts take, in seconds."""

MOST_STAGES = 1000
"""Pairs of pipeline and stage that have series of their own; those that come later are counted as ``other``."""

MOST_RUNS = 10_000
"""Runs of which it is remembered which attempts run."""

OTHER = "other"
_RESULTS = {
    "stage.ok": "ok",
    "stage.skipped": "skipped",
    "work.compensation_executed": "ok",
    "work.retry_attempt": "retried",
    "stage.lost": "lost",
    "stage.failed": "failed",
    "work.compensation_failed": "failed",
}
_RUNS = {"run.accepted": "accepted", "run.forked": "accepted"} | {f"run.{status}": str(status) for status in AT_REST}
_KEYS = {f"work.idempotency_{kind}": kind for kind in ("hit", "mismatch", "conflict")}

Labels = tuple[str, ...]


@dataclass
class Durations:
    """How long something took: how many times up to each bound of :data:`BUCKETS` and beyond, and in all."""

    within: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        at = next((n for n, bound in enumerate(BUCKETS) if seconds <= bound), len(BUCKETS))
        self.within[at] += 1
        self.total += seconds


class Counts:
    """Counts since it was made. ``runs``: by pipeline and what became of it; ``keys``: by pipeline and what a business
    key was answered; ``attempts``: by pipeline, stage, kind (``stage``, ``undo``) and result.
    """

    def __init__(self) -> None:
        self.runs: dict[Labels, int] = {}
        self.keys: dict[Labels, int] = {}
        self.attempts: dict[Labels, Durations] = {}
        self._stages: set[tuple[str, str]] = set()
        self._trails: OrderedDict[str, Trail] = OrderedDict()

    def add(self, event: RunEvent) -> None:
        """Count an event, the next of its run."""
        if event.data.get("origin") == "body" or event.item:
            return
        for known, counted in ((_RUNS, self.runs), (_KEYS, self.keys)):
            if event.type in known:
                labels = event.pipeline, known[event.type]
                counted[labels] = counted.get(labels, 0) + 1
        trail = self._trails.pop(event.run_id, None) or Trail(event.run_id, event.pipeline)
        for span in trail.add(event):
            if span.parent is not None:
                self._attempt(event.pipeline, span)
        if not trail.rests:
            self._trails[event.run_id] = trail
            while len(self._trails) > MOST_RUNS:
                self._trails.popitem(last=False)

    def _attempt(self, pipeline: str, span: Span) -> None:
        stage = str(span.attributes["stageflow.stage"])
        if (pipeline, stage) not in self._stages:
            if len(self._stages) >= MOST_STAGES:
                pipeline = stage = OTHER
            else:
                self._stages.add((pipeline, stage))
        kind = "undo" if span.name.startswith("undo ") else "stage"
        result = _RESULTS.get(str(span.attributes["stageflow.outcome"]), OTHER)
        self.attempts.setdefault((pipeline, stage, kind, result), Durations()).add(span.end - span.start)
