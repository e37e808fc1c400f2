"""Applying a change: the only place that writes a run's strands, attempts, checkpoints, saga steps and events.

The run's row is written first, and only where its number is still the one that was decided on. So a change that was
decided on older facts is refused whole, whoever made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, bindparam, insert, update

from stageflow_durable.codec import encode
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.state import idempotency_keys, load, tables
from stageflow_durable.state.audit import EventRow, seal
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.vouched import (
    AUDIT,
    FRESH_ATTEMPT,
    OF_RUN,
    RUN,
    attempt_row,
    checkpoint_row,
    is_by_body,
    said,
    step_row,
)
from stageflow_durable.transitions.change import KEYS, Change, KeyChange, KeyEnd, Row, Table
from stageflow_durable.transitions.facts import NotLoaded, Part

T = TypeVar("T")
G = TypeVar("G")

_RUN = tables.runs
_UPDATE_RUN = Prepared(update(_RUN).where(and_(_RUN.c.id == bindparam("run_id"), _RUN.c.seq == bindparam("seen_seq"))))
_INSERT_EVENTS = Prepared(insert(tables.events))


class Stale(Exception):
    """The run was changed since the facts were loaded: somebody wrote to it without its lock."""


def _updating(table: Table) -> Prepared:
    rows: Any = getattr(tables, table)
    same = [rows.c[name] == bindparam(f"the_{name}") for name in KEYS[table]]
    return Prepared(update(rows).where(and_(rows.c.run == bindparam("run_id"), *same)))


_UPDATE = {table: _updating(table) for table in Table}
_INSERT = {table: Prepared(insert(getattr(tables, table))) for table in Table}


def transact(
    connection: Connection,
    run_id: str,
    decide: Callable[[Any], T],
    audit_key: bytes,
    *,
    needs: tuple[Part, ...] = (Part.STRANDS,),
    me: str = "",
) -> T | None:
    """Lock a run, load its facts, let a transition decide on them, and apply the change that it made.

    :param decide: the transition, of the facts alone; it may be called again with more of them.
    :param needs: the parts that it will ask for, for certain; others are loaded when it asks.
    :param me: the owner who asks.
    :returns: what ``decide`` returned, a change with the codes that the run has now; None: there is no such run.
    """
    locked = load.lock(connection, run_id)
    if locked is None:
        return None
    parts = {part: load.part(connection, locked.run, part, me) for part in needs}
    while True:
        try:
            decided = decide(load.facts(connection, locked, parts))
        except NotLoaded as missing:
            parts[missing.part] = load.part(connection, locked.run, missing.part, me)
        else:
            return apply(connection, decided, audit_key) if isinstance(decided, Change) else decided  # type: ignore[return-value]  # a change for a change


def transact_all(
    connection: Connection,
    given: Sequence[tuple[str, G]],
    decide: Callable[[Any, G], Change | None],
    audit_key: bytes,
) -> list[Change]:
    """The same for several runs in one transaction, in few trips: what somebody else holds is left out, and what the
    transition makes nothing of. ``given``: runs, each with what the transition is told; it asks for strands alone, and
    changes nothing but rows that are there. A run's second one is left to the next time.
    """
    locked = load.lock_all(connection, [run for run, _one in given])
    strands = load.strands_of_all(connection, locked)
    changes: dict[str, Change] = {}
    for run, one in given:
        if run in locked and run not in changes:
            change = decide(load.facts(connection, locked[run], {Part.STRANDS: strands[run]}), one)
            if change is not None:
                changes[run] = change
    _apply_all(connection, list(changes.values()), audit_key)
    return list(changes.values())


def _apply_all(connection: Connection, changes: Sequence[Change], audit_key: bytes) -> None:
    """Write changes of different runs, all locked by this transaction; equal ones in one trip."""
    events: list[dict[str, Any]] = []
    of_runs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    of_rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for change in changes:
        run, sealed = change.facts.run, _sealed(change, audit_key)
        events += [event._asdict() for event in sealed]
        head = sealed[-1].mac if sealed else run.head
        if sealed or change.columns:
            columns = {**change.columns, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
            of_runs.setdefault(tuple(columns), []).append({"run_id": run.id, "seen_seq": run.seq, **columns})
        for row in change.rows:
            assert not row.new and not change.keys, "one at a time: it inserts rows, or ends keys"
            key = {f"the_{name}": value for name, value in zip(KEYS[row.table], row.key, strict=True)}
            of_rows.setdefault((row.table, *row.columns), []).append({"run_id": run.id, **key, **row.columns})
    for alike in of_runs.values():
        _UPDATE_RUN.many(connection, alike)
    for (table, *_columns), alike in of_rows.items():
        _UPDATE[table].many(connection, alike)
    _INSERT_EVENTS.many(connection, events)


def apply(connection: Connection, change: Change, audit_key: bytes) -> Change:
    """Write a change within the transaction that locked its run. Raises Stale."""
    run = change.facts.run
    sealed = _sealed(change, audit_key)
    head = sealed[-1].mac if sealed else run.head
    if sealed or change.columns:
        columns = {**change.columns, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
        if not _UPDATE_RUN.run(connection, run_id=run.id, seen_seq=run.seq, **columns).rowcount:
            raise Stale(f"run {run.id} was changed without its lock")
    for row in change.rows:
        names = KEYS[row.table]
        if row.new:
            _INSERT[row.table].run(connection, run=run.id, **dict(zip(names, row.key, strict=True)), **row.columns)
        else:
            key = {f"the_{name}": value for name, value in zip(names, row.key, strict=True)}
            _UPDATE[row.table].run(connection, run_id=run.id, **key, **row.columns)
    _INSERT_EVENTS.many(connection, [event._asdict() for event in sealed])
    for key_change in change.keys:
        _end_key(connection, run.id, key_change)
    return change._replace(granted=change.granted and _with_head(change.granted, head))


def _with_head(granted: Any, head: str) -> Any:
    return replace(granted, run=granted.run._replace(head=head), head=head)


def _sealed(change: Change, audit_key: bytes) -> list[EventRow]:
    """The events as rows, each with the code of the one before it; the engine's last says what is written."""
    run, at = change.facts.run, change.facts.clock
    seq, head = run.seq, run.head
    ours = [place for place, event in enumerate(change.events) if not is_by_body(event.data)] if audit_key else []
    rows = []
    for place, (kind, data) in enumerate(change.events):
        told = data
        if place in ours:
            told = {**data, AUDIT: _vouched(change, audit_key) if place == ours[-1] else {}}
        seq += 1
        row = seal(audit_key, run.id, seq, kind, at, encode(told), head)
        head = row.mac
        rows.append(row)
    return rows


def _vouched(change: Change, audit_key: bytes) -> dict[str, dict[str, Any]]:
    """What the change writes to covered columns, as events hold it: see ``vouched``."""
    run = change.facts.run.id
    written: dict[str, dict[str, Any]] = {}
    of_run = {name: value for name, value in change.columns.items() if name in OF_RUN}
    if of_run:
        written[RUN] = of_run
    for row in change.rows:
        if row.table is not Table.STRANDS:
            written[_NAMED[row.table](*row.key)] = _told(row)
    return {name: said(audit_key, run, name, columns) for name, columns in written.items()}


_NAMED: dict[Table, Callable[..., str]] = {
    Table.ATTEMPTS: lambda stage, direction, n: attempt_row(direction, n, stage),
    Table.CHECKPOINTS: checkpoint_row,
    Table.SAGA_STEPS: step_row,
}


def _told(row: Row) -> dict[str, Any]:
    """The columns of a row that its event has to name: those of a new one only where they are unlike a plain one's."""
    if row.table is Table.ATTEMPTS and row.new:
        return {name: row.columns.get(name) for name, usual in FRESH_ATTEMPT.items() if row.columns.get(name) != usual}
    if row.table is Table.CHECKPOINTS:
        return {name: value for name, value in row.columns.items() if name != "at"}
    return row.columns


def _end_key(connection: Connection, run_id: str, change: KeyChange) -> None:
    key, ttl = change.key, change.key.ttl_seconds
    whose = (connection, Scope(key.client_id, key.operation), key.key, run_id, key.stage)
    if change.end is KeyEnd.FINISHED:
        assert change.delta is not None
        idempotency_keys.finish_for_run(*whose, change.delta, ttl_seconds=ttl, schema=change.schema)
    elif change.end is KeyEnd.RELEASED:
        idempotency_keys.release_for_run(*whose)
    elif change.end is KeyEnd.ABANDONED:
        idempotency_keys.abandon_for_run(*whose, ttl_seconds=ttl)
    else:
        idempotency_keys.undone_for_run(*whose, ttl_seconds=ttl)
