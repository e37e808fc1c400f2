"""Applying a change under the run's lock; ``at_once`` applies one without it, and ``batch`` inserts many new runs. No
other module writes what a transition decides about a run.

The run's row is written first, on condition that its number is still the one on which the change was decided. So a
change that was decided on older facts is refused as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select, update

from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.model.status import StepState
from stageflow_durable.state import idempotency_keys, load, of_items, slots, tables
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.store.audit import EventRow
from stageflow_durable.store.of_items import with_digest
from stageflow_durable.store.sealing import seal_events, with_head
from stageflow_durable.transitions.change import KEYS, Change, How, KeyChange, KeyEnd, Table
from stageflow_durable.transitions.facts import Part

T = TypeVar("T")
G = TypeVar("G")

_RUN = tables.runs
_UPDATE_RUN = Prepared(update(_RUN).where(and_(_RUN.c.id == bindparam("run_id"), _RUN.c.seq == bindparam("seen_seq"))))
_INSERT_EVENTS = Prepared(insert(tables.events))

RUN_KEY = ("client_id", "pipeline", "key")
"""The columns that are unique among runs and tombstones."""

_INSERT_RUN = Prepared(
    lambda dialect: dialect.insert(_RUN).on_conflict_do_nothing(index_elements=RUN_KEY).returning(_RUN.c.id)
)
_TOMBSTONE = Prepared(
    select(tables.tombstones.c.run).where(and_(*(tables.tombstones.c[name] == bindparam(name) for name in RUN_KEY)))
)
_DELETE_RUN = Prepared(delete(_RUN).where(_RUN.c.id == bindparam("run_id")))


class Stale(Exception):
    """The run was changed since the facts were loaded: somebody wrote to it without its lock."""


def _updating(table: Table) -> Prepared:
    rows: Any = getattr(tables, table)
    same = [rows.c[name] == bindparam(f"the_{name}") for name in KEYS[table]]
    return Prepared(update(rows).where(and_(rows.c.run == bindparam("run_id"), *same)))


_UPDATE = {table: _updating(table) for table in Table}
_INSERT = {table: Prepared(insert(getattr(tables, table))) for table in Table}
_STEPS = tables.saga_steps


def intending(insertion: Any) -> Any:
    """The insertion of a saga step's intent; a step that is there is owed again if it is void or was skipped."""
    return insertion.on_conflict_do_update(
        index_elements=["run", "stage", "item"],
        set_={"state": insertion.excluded.state},
        where=or_(_STEPS.c.state == StepState.VOID.value, _STEPS.c.state == StepState.SKIPPED.value),
    )


_INTEND = Prepared(lambda dialect: intending(dialect.insert(_STEPS)))


def transact_all(
    connection: Connection,
    given: Sequence[tuple[str, G]],
    decide: Callable[[Any, G], Change | None],
    audit_key: bytes,
) -> list[Change]:
    """Let a transition decide on several runs in one transaction, in few round trips. Runs that somebody else has
    locked are left out, and so is a second entry for the same run. ``given``: runs, each with the second argument of
    ``decide``, which needs strands only, may return None, and only updates rows. Returns the changes that were applied.
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
    """Write changes of different runs, all locked by this transaction; those of one shape in one round trip."""
    events: list[dict[str, Any]] = []
    of_runs: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    of_rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for change in changes:
        run, sealed = change.facts.run, seal_events(change, audit_key)
        events += [event._asdict() for event in sealed]
        head = sealed[-1].mac if sealed else change.facts.head
        if sealed or change.columns:
            columns = {**change.columns, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
            of_runs.setdefault(tuple(columns), []).append({"run_id": run.id, "seen_seq": change.facts.seq, **columns})
        for row in change.rows:
            assert row.how is How.UPDATE and not change.keys, "one at a time: it inserts rows, or ends keys"
            key = {f"the_{name}": value for name, value in zip(KEYS[row.table], row.key, strict=True)}
            of_rows.setdefault((row.table, *row.columns), []).append({"run_id": run.id, **key, **row.columns})
    for alike in of_runs.values():
        _UPDATE_RUN.many(connection, alike)
    for (table, *_columns), alike in of_rows.items():
        _UPDATE[table].many(connection, alike)
    _INSERT_EVENTS.many(connection, events)


def apply(connection: Connection, change: Change, audit_key: bytes) -> Change:
    """Write a change within the transaction that locked its run. Raises Stale."""
    if change.facts.item:
        return _apply_of_item(connection, change, audit_key)
    run = change.facts.run
    sealed = seal_events(change, audit_key)
    head = sealed[-1].mac if sealed else change.facts.head
    if sealed or change.columns:
        columns = {**change.columns, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
        if not _UPDATE_RUN.run(connection, run_id=run.id, seen_seq=change.facts.seq, **columns).rowcount:
            raise Stale(f"run {run.id} was changed without its lock")
    _write_rows(connection, change, sealed)
    if change.slots is not None:
        slots.write(connection, change.slots)
    for what in change.of_items:
        of_items.write(connection, run.id, what, head, change.facts.clock)
    return with_head(change, head)


def _apply_of_item(connection: Connection, change: Change, audit_key: bytes) -> Change:
    """Write the change of an item, whose group this transaction has locked, and that of its run, if there is one."""
    facts, sealed = change.facts, seal_events(change, audit_key)
    head = sealed[-1].mac if sealed else facts.head
    if sealed and not of_items.move(connection, facts, change.seq, head):
        raise Stale(f"item {facts.item} of run {facts.run.id} was changed without its group's lock")
    digest = of_items.count(connection, facts, change.counts, head)
    _write_rows(connection, change, sealed)
    if change.run is not None:
        apply(connection, with_digest(change.run, facts.group, digest), audit_key)
    return with_head(change, head)


def create(connection: Connection, change: Change, audit_key: bytes, *, hints: bool = False) -> Change | None:
    """Write a new run. None, and nothing written, if its key is taken by a run or the tombstone of a pruned one."""
    run, sealed = change.facts.run, seal_events(change, audit_key)
    head = sealed[-1].mac
    columns = {**change.columns, "id": run.id, "seq": change.seq, "head": head, "updated_at": change.facts.clock}
    if _INSERT_RUN.value(connection, **columns) is None:
        return None
    # Looked up afterwards: the insertion may have waited for a pruning that deletes the run and leaves a tombstone.
    if run.key is not None and _TOMBSTONE.value(connection, **{name: columns[name] for name in RUN_KEY}) is not None:
        _DELETE_RUN.run(connection, run_id=run.id)
        return None
    _write_rows(connection, change, sealed)
    return with_head(change, head, hints=hints)


def _write_rows(connection: Connection, change: Change, sealed: Sequence[EventRow]) -> None:
    run = change.facts.run
    for row in change.rows:
        names = KEYS[row.table]
        if row.how is How.UPDATE:
            key = {f"the_{name}": value for name, value in zip(names, row.key, strict=True)}
            _UPDATE[row.table].run(connection, run_id=run.id, **key, **row.columns)
        else:
            write = _INSERT[row.table] if row.how is How.INSERT else _INTEND
            write.run(connection, run=run.id, **dict(zip(names, row.key, strict=True)), **row.columns)
    whose = {"item": change.facts.item} if change.facts.item else {}
    _INSERT_EVENTS.many(connection, [{**event._asdict(), **whose} for event in sealed])
    for key_change in change.keys:
        _end_key(connection, run.id, key_change)


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
