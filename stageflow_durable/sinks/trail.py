"""A run's history as spans: a pure fold over its events. Whoever has the history has the spans, with the same ids.

A trace is a run up to where it came to rest, or up to a wait of more than an hour: what follows is a trace of its own,
which is linked to the one before. Ids follow from run, trace, stage and attempt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any, Protocol

from stageflow_durable.model.status import AT_REST

LONG_SECONDS = 3600.0
"""A wait that lasts longer ends a trace."""

MOST_NOTED = 100
"""Events that the span of a run has of its own; what happens after them is not noted there."""

_ENDS = frozenset(f"run.{status}" for status in AT_REST)
_UNDOES = frozenset({"undo.begun", "work.compensation_executed", "work.compensation_failed"})
_FAILED = frozenset({"stage.failed", "stage.lost", "work.retry_attempt", "work.compensation_failed"})
_NOTED = ("work.", "approval.", "signal.", "operator.", "run.stopping", "stage.woken", "stage.asleep", "stage.waiting")


class Happened(Protocol):
    """An event, as a history or a sink has it."""

    @property
    def seq(self) -> int:
        """Its number."""

    @property
    def type(self) -> str:
        """What it is."""

    @property
    def at(self) -> datetime:
        """When."""

    @property
    def data(self) -> Mapping[str, Any]:
        """What it notes."""


@dataclass(frozen=True, slots=True)
class Place:
    """Ids of a span: of its trace (128 bits) and its own (64 bits)."""

    trace: int
    span: int


@dataclass(frozen=True, slots=True)
class Span:
    """One span. ``start`` and ``end``: seconds since the epoch. ``parent``: the span around it; ``link``: the trace
    before. ``error``: None where nothing went wrong. ``noted``: what happened meanwhile, with its time.
    """

    name: str
    place: Place
    parent: Place | None
    start: float
    end: float
    attributes: Mapping[str, str | int]
    error: str | None = None
    link: Place | None = None
    noted: tuple[tuple[str, float], ...] = ()


def trace_place(run: str, number: int) -> Place:
    """Of the span of a run in its trace of that number, from 0."""
    return Place(_bits(f"trace {run} {number}", 16), _bits(f"run {run} {number}", 8))


def attempt_place(run: str, number: int, direction: str, stage: str, attempt: int) -> Place:
    """Of the span of an attempt."""
    return Place(trace_place(run, number).trace, _bits(f"{direction} {run} {attempt} {stage}", 8))


def _bits(text: str, size: int) -> int:
    return int.from_bytes(sha256(text.encode()).digest()[:size], "big") or 1  # zero is no id


Attempt = tuple[str, str, int]
"""Direction, stage and number."""


@dataclass
class Trail:
    """What is known of a run up to an event: ``number`` of its trace, and which attempts run."""

    run: str
    pipeline: str
    number: int = 0
    seq: int = 0
    start: float | None = None
    last: float = 0.0
    rests: bool = False
    running: dict[Attempt, float] = field(default_factory=dict)
    noted: list[tuple[str, float]] = field(default_factory=list)

    def add(self, event: Happened) -> list[Span]:
        """The spans that end with this event, the next of the run."""
        at, found = event.at.timestamp(), []
        if self.start is None:
            self.start = at
        elif self.rests or (at - self.last > LONG_SECONDS and not self.running):
            if not self.rests:
                found.append(self._whole(self.last, "waiting"))
            self.number, self.start, self.rests = self.number + 1, at, False
            self.noted.clear()
        self.seq, self.last = event.seq, max(at, self.last)
        found += self._attempts(event, at)
        if event.type.startswith(_NOTED) and len(self.noted) < MOST_NOTED:
            self.noted.append((event.type, at))
        if event.type in _ENDS:
            found.append(self._whole(at, event.type.removeprefix("run."), event.data.get("error")))
            self.rests = True
        return found

    def _attempts(self, event: Happened, at: float) -> list[Span]:
        data, begins = event.data, event.type in ("stage.begun", "undo.begun")
        backward = event.type in _UNDOES or data.get("undo") is True
        found: list[Span] = []
        if isinstance(data.get("attempt"), int) and isinstance(data.get("stage"), str):
            this = ("undo" if backward else "stage", data["stage"], data["attempt"])
            if begins:
                self.running[this] = at
            elif this in self.running:
                found.append(self._attempt(this, at, event))
        then = data.get("then")
        if isinstance(then, Mapping) and "stage" in then:
            self.running["stage", str(then["stage"]), int(then.get("attempt", 1))] = at
        return found

    def place(self, direction: str, stage: str, attempt: int) -> Place:
        """Of an attempt in the trace of now."""
        return attempt_place(self.run, self.number, direction, stage, attempt)

    def _attempt(self, this: Attempt, at: float, event: Happened) -> Span:
        direction, stage, attempt = this
        failed = event.type in _FAILED
        error = str(event.data.get("error") or event.type) if failed else None
        about = {**self._about, "stageflow.stage": stage, "stageflow.attempt": attempt, "stageflow.outcome": event.type}
        if event.data.get("category"):
            about["stageflow.error.category"] = str(event.data["category"])
        name = stage if direction == "stage" else f"undo {stage}"
        start = self.running.pop(this)
        whole = trace_place(self.run, self.number)
        return Span(name, self.place(*this), whole, start, max(at, start), about, error)

    def _whole(self, at: float, status: str, error: object = None) -> Span:
        start = self.start if self.start is not None else at
        before = trace_place(self.run, self.number - 1) if self.number else None
        about = {**self._about, "stageflow.run.status": status}
        wrong = str(error or status) if status in ("failed", "parked", "compensation_failed") else None
        place, noted = trace_place(self.run, self.number), tuple(self.noted)
        return Span(f"run {self.pipeline}", place, None, start, max(at, start), about, wrong, before, noted)

    @property
    def _about(self) -> dict[str, str | int]:
        return {"stageflow.run.id": self.run, "stageflow.pipeline": self.pipeline}
