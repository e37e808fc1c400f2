"""The lock on a run: the first statement of every transaction that changes one.

Holding it, a transaction sees every branch, every operator and every sweep before or after itself, never beside: two
branches cannot miss each other at a join, and a cancel and a begin cannot both win. What it decides is written by
:meth:`LockedRun.flush`, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from stageflow_durable.codec import encode
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.clock import now
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.tables import events, runs

_SEE = select(runs, now().label("clock")).where(runs.c.id == bindparam("run_id"))
_LOCK = _SEE.with_for_update()
_INSERT_EVENTS = insert(events)
_UPDATE = update(runs).where(runs.c.id == bindparam("run_id"))


class LockedRun:
    """A run that this transaction alone may change, and the changes so far."""

    def __init__(self, connection: Connection, facts: RunFacts, clock: float, audit_key: bytes) -> None:
        self.connection = connection
        self.facts = facts
        self.clock = clock
        self._audit_key = audit_key
        self._events: list[EventRow] = []
        self._changes: dict[str, Any] = {}

    @property
    def id(self) -> str:
        """The run's id."""
        return self.facts.id

    @property
    def plan(self) -> Plan:
        """The plan stored with the run."""
        return plan_of(self.connection, self.facts.definition)

    @property
    def is_late(self) -> bool:
        """Whether its deadline has passed and nothing may begin any more."""
        return self.facts.is_late(self.clock)

    def emit(self, kind: str, /, **data: Any) -> None:
        """Append an event to the run's chain."""
        event = seal(self._audit_key, self.id, self.facts.seq + 1, kind, self.clock, encode(data), self.facts.head)
        self._events.append(event)
        self.facts = replace(self.facts, seq=event.seq, head=event.mac)

    def change(self, **columns: Any) -> None:
        """Set columns of the run's row."""
        changed = {name: value for name, value in columns.items() if getattr(self.facts, name) != value}
        if changed:
            self._changes.update(changed)
            self.facts = replace(self.facts, **changed)

    def flush(self) -> None:
        """Write what was decided: the row and its events."""
        if self._events:
            self.connection.execute(_INSERT_EVENTS, [_columns(event) for event in self._events])
        if self._events or self._changes:
            self.connection.execute(
                _UPDATE,
                {
                    "run_id": self.id,
                    **self._changes,
                    "seq": self.facts.seq,
                    "head": self.facts.head,
                    "updated_at": self.clock,
                },
            )
        self._events, self._changes = [], {}


def lock(connection: Connection, run_id: str, audit_key: bytes) -> LockedRun | None:
    """Lock a run, or None where there is no such run."""
    row = connection.execute(_LOCK, {"run_id": run_id}).one_or_none()
    return None if row is None else LockedRun(connection, facts_of(row), row.clock, audit_key)


def seen(connection: Connection, run_id: str) -> LockedRun:
    """A run as it stands, not locked: to look at, never to change."""
    row = connection.execute(_SEE, {"run_id": run_id}).one()
    return LockedRun(connection, facts_of(row), row.clock, b"")


def facts_of(row: Any) -> RunFacts:
    """A ``runs`` row as facts, with its states as enums; further columns of the row are left out."""
    return facts_of_values(row[: len(RunFacts.__slots__)])


def facts_of_values(values: Sequence[Any]) -> RunFacts:
    """Values in the order of the table's columns as facts; drivers give booleans and states in their own ways."""
    given = dict(zip(RunFacts.__slots__, values, strict=True))
    for name, kind in _KINDS.items():
        if given[name] is not None:
            given[name] = kind(given[name])
    return RunFacts(**given)


_KINDS: dict[str, Any] = {
    "phase": Phase,
    "status": RunStatus,
    "cause": Cause,
    "park_reason": ParkReason,
    "pivot_passed": bool,
    "past_pivot": bool,
}


def _columns(event: EventRow) -> dict[str, Any]:
    return {name: getattr(event, name) for name in EventRow.__slots__}
