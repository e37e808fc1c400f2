"""What happens right now, at a glance: workers, queues, rates, waits. Pure values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from stageflow_durable.model.run import RunSummary, WaitKind, WorkerView
from stageflow_durable.model.status import AT_REST, RunStatus


@dataclass(frozen=True, slots=True)
class QueueView:
    """A queue that is served or used. ``workers``: live processes that serve it, ``busy``: those that run something;
    ``depth``: messages that wait, as the broker says, or None; ``ready``: stages that no worker has taken; ``oldest``:
    when the message of the one that waits longest was sent, or None.
    """

    name: str
    workers: int
    busy: int
    depth: int | None
    ready: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class Rate:
    """What became of a pipeline's runs that began lately: ``begun`` of them, by status now."""

    pipeline: str
    begun: int
    statuses: Mapping[RunStatus, int]

    @property
    def going(self) -> int:
        """How many are under way."""
        return sum(number for status, number in self.statuses.items() if status not in AT_REST)


@dataclass(frozen=True, slots=True)
class Waiting:
    """Runs that wait for the same kind of thing: how many, and since when the one that waits longest."""

    kind: WaitKind
    runs: int
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Overview:
    """``at``: an aware datetime. ``counts``: runs by status, of those that are under way or need a person, each counted
    up to ``most``. ``rates``: of the runs that began within ``lately`` seconds; ``waits``: of some runs that wait,
    ``looked_at`` of them. Where there are more, ``partial`` names what was not looked at to its end.
    """

    at: datetime
    workers: tuple[WorkerView, ...]
    counts: Mapping[RunStatus, int]
    most: int
    queues: tuple[QueueView, ...]
    rates: tuple[Rate, ...]
    lately: float
    waits: tuple[Waiting, ...]
    looked_at: int
    partial: tuple[str, ...]


def rates_of(runs: Iterable[RunSummary]) -> tuple[Rate, ...]:
    """By pipeline, the busiest first."""
    found: dict[str, Counter[RunStatus]] = {}
    for run in runs:
        found.setdefault(run.pipeline, Counter())[run.status] += 1
    rates = (Rate(name, statuses.total(), dict(statuses)) for name, statuses in found.items())
    return tuple(sorted(rates, key=lambda rate: (-rate.begun, rate.pipeline)))


def waits_of(runs: Iterable[RunSummary]) -> tuple[Waiting, ...]:
    """By what each run waits for first, the most frequent first."""
    found: dict[WaitKind, list[datetime | None]] = {}
    for run in runs:
        if run.waits:
            found.setdefault(run.waits[0].kind, []).append(run.waits[0].since)
    waits = (
        Waiting(kind, len(times), min((at for at in times if at is not None), default=None))
        for kind, times in found.items()
    )
    return tuple(sorted(waits, key=lambda wait: (-wait.runs, wait.kind)))


def busy_on(workers: Sequence[WorkerView], queue: str) -> int:
    """How many of the live processes that serve a queue run something."""
    return sum(worker.alive and queue in worker.queues and bool(worker.running) for worker in workers)
