"""What sinks are told, and how they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, Protocol, runtime_checkable

TOLD = ("work.", "run.")
"""How the types of events begin that a sink is told of unless it names others."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event of a run's history, as a sink is told of it.

    ``seq`` counts the events of a run (of one of its items, where ``item`` is not 0) from 1. They are told in this
    order, each at least once: one whose ``seq`` is not above the last of its run and item was told before.
    ``data``: what the event notes, without secrets; ``key``: the run's idempotency key.
    """

    run_id: str
    seq: int
    type: str
    at: datetime
    pipeline: str
    client_id: str
    key: str | None
    data: Mapping[str, Any]
    item: int = 0

    @property
    def id(self) -> str:
        """The same each time the event is told: ``RUN.SEQ``, of an item ``RUN.ITEM.SEQ``."""
        return f"{self.run_id}.{self.item}.{self.seq}" if self.item else f"{self.run_id}.{self.seq}"


@runtime_checkable
class Sink(Protocol):
    """Who is told of events.

    ``name``: by it the database knows how far the sink was told; a sink with a new name begins with what happens next.
    ``kinds``: how the types of events begin that it is told of. If it has a method ``close()``, that is called once
    this process tells it no more, for now.
    """

    name: str
    kinds: tuple[str, ...]

    def deliver(self, event: RunEvent) -> object:
        """Take an event. Whatever it raises means "not taken": the same event is told again, later and later, and none
        of those after it meanwhile.
        """


class SinkLease(NamedTuple):
    """The right to tell a sink, until another process takes it: ``fence`` is raised by that. ``position``: of the last
    event that it was told of; ``tries``: how often in a row it refused the next one.
    """

    name: str
    fence: int
    position: int
    tries: int


class Horizon(NamedTuple):
    """Once none of the transactions ``writers`` is under way any more, all events up to ``position`` are there that
    will ever be.
    """

    position: int
    writers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SinkView:
    """How a sink stands. ``behind``: events that it was not told of yet, of whatever type (10,000: or more);
    ``behind_since``: when the first of them happened. ``tries``, ``error``, ``retry_at``: how often in a row it refused
    the next event, what it said last, and from when on it is tried again. ``told_by``: the process that tells it now.
    """

    name: str
    behind: int
    behind_since: datetime | None
    told_by: str | None
    tries: int
    error: str | None
    retry_at: datetime | None
    delivered_at: datetime | None
    created_at: datetime
