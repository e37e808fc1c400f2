"""The lock on a run: the first statement of every transaction that changes one.

Holding it, a transaction sees every branch, every operator and every sweep before or after itself, never beside: two
branches cannot miss each other at a join, and a cancel and a begin cannot both win. What it decides is written by
:meth:`LockedRun.flush`, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, bindparam, insert, select, update

from stageflow_durable.codec import encode
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.clock import now
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import events, runs
from stageflow_durable.state.vouched import AUDIT, OF_RUN, RUN, is_by_body, said

_LOOK = select(runs, now().label("clock")).where(runs.c.id == bindparam("run_id"))
_SEE = Prepared(_LOOK)
_LOCK = Prepared(_LOOK.with_for_update())
_INSERT_EVENTS = Prepared(insert(events))
_UPDATE = Prepared(update(runs).where(runs.c.id == bindparam("run_id")))


class LockedRun:
    """A run that this transaction alone may change, and the changes so far."""

    def __init__(self, connection: Connection, facts: RunFacts, clock: float, audit_key: bytes) -> None:
        self.connection = connection
        self.id = facts.id
        self.clock = clock
        self._facts = facts
        self._news: dict[str, Any] = {}
        self._audit_key = audit_key
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._changes: dict[str, Any] = {}
        self._said: dict[str, dict[str, Any]] = {}

    @property
    def facts(self) -> RunFacts:
        """The run's row with the changes so far."""
        if self._news:
            self._facts, self._news = self._facts._replace(**self._news), {}
        return self._facts

    @property
    def plan(self) -> Plan:
        """The plan stored with the run."""
        return plan_of(self.connection, self.facts.definition)

    @property
    def is_late(self) -> bool:
        """Whether its deadline has passed and nothing may begin any more."""
        return self.facts.is_late(self.clock)

    def emit(self, kind: str, /, **data: Any) -> None:
        """Append an event to the run's chain. ``head`` follows when the events are written."""
        self._events.append((kind, data))
        self._news["seq"] = self._now("seq") + 1

    def add_to(self, kind: str, /, **data: Any) -> bool:
        """Say more in the event that this transaction emitted last, where it is of that kind; whether it was."""
        if not self._events or self._events[-1][0] != kind:
            return False
        self._events[-1][1].update(data)
        return True

    def vouch(self, row: str, **columns: Any) -> None:
        """Say in this transaction's last event what was written to a row of the run: see ``vouched``."""
        if self._audit_key:
            self._said.setdefault(row, {}).update(said(self._audit_key, self.id, row, columns))

    def change(self, **columns: Any) -> None:
        """Set columns of the run's row."""
        changed = {name: value for name, value in columns.items() if self._now(name) != value}
        self._changes.update(changed)
        self._news.update(changed)

    def _now(self, name: str) -> Any:
        return self._news[name] if name in self._news else getattr(self._facts, name)

    def flush(self) -> None:
        """Write what was decided: the row and its events."""
        changed = {name: value for name, value in self._changes.items() if name in OF_RUN}
        if changed:
            self.vouch(RUN, **changed)
        if self._said and not self._events:
            self.emit("run.changed")  # what no event tells of would pass for somebody else's change
        if self._events:
            _INSERT_EVENTS.many(self.connection, [event._asdict() for event in self._sealed()])
        if self._events or self._changes:
            chain = {"seq": self._now("seq"), "head": self._now("head")}
            _UPDATE.run(self.connection, run_id=self.id, **self._changes, **chain, updated_at=self.clock)
        self._events, self._changes, self._said = [], {}, {}

    def _sealed(self) -> list[EventRow]:
        seq, head = self._now("seq") - len(self._events), self._now("head")
        ours = [data for _kind, data in self._events if not is_by_body(data)] if self._audit_key else []
        for data in ours:
            data[AUDIT] = self._said if data is ours[-1] else {}
        sealed = []
        for kind, data in self._events:
            event = seal(self._audit_key, self.id, seq + 1, kind, self.clock, encode(data), head)
            sealed.append(event)
            seq, head = event.seq, event.mac
        self._news["head"] = head
        return sealed


def lock(connection: Connection, run_id: str, audit_key: bytes) -> LockedRun | None:
    """Lock a run, or None where there is no such run."""
    row = _LOCK.run(connection, run_id=run_id).fetchone()
    return None if row is None else LockedRun(connection, facts_of(row), row[-1], audit_key)


def seen(connection: Connection, run_id: str) -> LockedRun:
    """A run as it stands, not locked: to look at, never to change."""
    row = _SEE.run(connection, run_id=run_id).fetchone()
    return LockedRun(connection, facts_of(row), row[-1], b"")


def facts_of(row: Any) -> RunFacts:
    """A ``runs`` row as facts, with its states as enums; further columns of the row are left out."""
    return facts_of_values(row[: len(RunFacts._fields)])


def facts_of_values(values: Sequence[Any]) -> RunFacts:
    """Values in the order of the table's columns as facts; drivers give booleans and states in their own ways."""
    given = list(values)
    for place, kind in _KIND_AT:
        if given[place] is not None:
            given[place] = kind(given[place])
    return RunFacts._make(given)


def _member(states: type[StrEnum]) -> Callable[[str], StrEnum]:
    return {state.value: state for state in states}.__getitem__  # asking the class costs ten times that


_KINDS: dict[str, Callable[[Any], Any]] = {
    "phase": _member(Phase),
    "status": _member(RunStatus),
    "cause": _member(Cause),
    "park_reason": _member(ParkReason),
    "pivot_passed": bool,
    "past_pivot": bool,
}
_KIND_AT = [(RunFacts._fields.index(name), kind) for name, kind in _KINDS.items()]
