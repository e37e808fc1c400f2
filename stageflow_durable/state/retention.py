"""Retention: runs that ended long ago are deleted. What stays is a tombstone: their key, and the head of their history.

A key that comes again finds its run's row or the tombstone, never neither: the tombstone is committed before the row
is deleted, and no statement that began before that is still under way then::

    prune     | entomb, commit |  wait until all older statements ended  | delete, commit |
    enqueue   ... sees the row ...|... sees the tombstone, or meets the row ...|... sees the tombstone
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)

from stageflow_durable.errors import RunBusy
from stageflow_durable.model.status import RunStatus
from stageflow_durable.state import roster
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.database import Database
from stageflow_durable.state.dialect import constant, insert_for
from stageflow_durable.state.idempotency_keys import idempotency_keys
from stageflow_durable.state.opening import STATEMENT_MILLISECONDS
from stageflow_durable.state.slots import HOLDS
from stageflow_durable.state.slots import forget as forget_pools
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    attributes,
    calls,
    checkpoints,
    events,
    item_groups,
    items,
    links,
    owners,
    runs,
    saga_steps,
    signals,
    sinks,
    slots,
    strands,
    tombstones,
)
from stageflow_durable.store.values import BATCH, PRUNED, TRACES, UNTOLD_SECONDS, Pruned
from stageflow_durable.store.vouched import tombstone_code

KEYS = 1000
"""Expired business keys deleted in one transaction."""

PAUSE_SECONDS = 0.05
_OLD_STATEMENTS = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
    "AND (backend_type IS NULL OR backend_type = 'client backend') AND (state IS NULL OR state = 'active') "
    "AND (query_start IS NULL OR query_start < to_timestamp(:moment))"
)
# Each must be the other's equal: the names of the columns that a tombstone takes over.
_KEPT = ("client_id", "pipeline", "key", "fingerprint", "status", "seq", "head", "finished_at")


def prune(
    database: Database,
    audit_key: bytes,
    older_than: float,
    sleep: Callable[[float], None],
    *,
    batch: int = BATCH,
    key_seconds: float,
) -> Pruned:
    """Delete at most ``batch`` runs that ended more than ``older_than`` seconds ago, and business keys that expired.
    Raises RunBusy for what cannot be deleted in time, after the others.
    """
    _forget_keys(database)
    with database.transaction() as connection:
        ids = _entomb(connection, audit_key, older_than, batch)
        _forget(connection, older_than, key_seconds)
    if not ids:
        return Pruned(0, 0)
    _let_older_statements_end(database, sleep)
    return Pruned(len(ids), _delete_all(database, ids, older_than))


def _delete_all(database: Database, ids: Sequence[str], older_than: float) -> int:
    """Delete runs: where a statement takes too long for all of them, half of them, down to one."""
    deleted, waiting = 0, [ids]
    late: RunBusy | None = None
    while waiting:
        some = waiting.pop()
        try:
            with database.transaction() as connection:
                now_deleted = _delete(connection, some, older_than)
        except RunBusy as error:
            half = len(some) // 2
            waiting += [some[half:], some[:half]] if half else []
            late = late if half else RunBusy(f"run {some[0]} could not be deleted, others were: {error}")
        else:
            deleted += now_deleted
    if late is not None:
        raise late
    return deleted


def _delete(connection: Connection, ids: Sequence[str], older_than: float) -> int:
    # Asked again, under their locks: somebody may have resumed one meanwhile.
    still = select(runs.c.id, runs.c.item_count).where(and_(runs.c.id.in_(ids), _over(older_than))).order_by(runs.c.id)
    found = connection.execute(still.with_for_update(of=runs)).all()
    over = [run for run, _items in found]
    for table in (events, saga_steps, checkpoints, attempts, strands, attributes, signals, approvals, links, calls):
        connection.execute(delete(table).where(table.c.run.in_(over)))
    with_items = [run for run, count in found if count]
    for table in (items, item_groups) if with_items else ():
        connection.execute(delete(table).where(table.c.run.in_(with_items)))
    deleted = connection.execute(delete(runs).where(runs.c.id.in_(over))).rowcount
    _disinter(connection, sorted(set(ids) - set(over)), older_than)
    return deleted


def _disinter(connection: Connection, ids: Sequence[str], older_than: float) -> None:
    """Take the tombstones of runs that live on: they would pass a later deletion by hand for a pruning."""
    # Under their locks, against another prune: of what that one deletes the tombstone is needed.
    alive = select(runs.c.id).where(runs.c.id.in_(ids), ~_over(older_than)).order_by(runs.c.id)
    found = connection.execute(alive.with_for_update(of=runs)).scalars().all() if ids else ()
    if found:
        connection.execute(delete(tombstones).where(tombstones.c.run.in_(found)))


def prunable(connection: Connection, older_than: float) -> int:
    """How many runs :func:`prune` would delete, batch after batch."""
    counts = [
        select(func.count()).select_from(runs).where(_ended(status, older_than)).scalar_subquery() for status in PRUNED
    ]
    return sum(int(count) for count in connection.execute(select(*counts)).one())


def _over(older_than: float) -> ColumnElement[bool]:
    """Ended for good and long ago, whichever way."""
    return and_(runs.c.status.in_([constant(status) for status in PRUNED]), *_long_ago(older_than))


def _ended(status: RunStatus, older_than: float) -> ColumnElement[bool]:
    return and_(runs.c.status == constant(status), *_long_ago(older_than))


def _long_ago(older_than: float) -> tuple[ColumnElement[bool], ...]:
    # What ended then was created before: that column is the one with an index. A key that the run still holds is in
    # doubt, and only the run can settle it.
    lasts = or_(idempotency_keys.c.expires_at.is_(None), idempotency_keys.c.expires_at > now())
    holds = and_(idempotency_keys.c.owner_run == runs.c.id, idempotency_keys.c.state == literal_column("'held'"), lasts)
    # One that a sink was not told of waits for it, for a week.
    told = select(func.min(sinks.c.position)).scalar_subquery()
    untold = exists(select(events.c.seq).where(events.c.run == runs.c.id, events.c.position > told))
    waits = and_(runs.c.finished_at > ago(UNTOLD_SECONDS), untold)
    then, held = ago(older_than), exists(select(idempotency_keys.c.key).where(holds))
    return runs.c.created_at < then, runs.c.finished_at < then, ~held, ~waits


def _entomb(connection: Connection, audit_key: bytes, older_than: float, batch: int) -> list[str]:
    ids: list[str] = []
    for status in PRUNED:
        found = select(runs.c.id).where(_ended(status, older_than)).order_by(runs.c.created_at)
        locked = found.limit(batch - len(ids)).with_for_update(skip_locked=True, of=runs)
        ids += connection.execute(locked).scalars()
    if ids:
        _replace_by_tombstones(connection, audit_key, ids)
    return ids


def _replace_by_tombstones(connection: Connection, audit_key: bytes, ids: Sequence[str]) -> None:
    columns = [runs.c[name] for name in _KEPT]
    found = connection.execute(
        select(runs.c.id.label("run"), *columns, now().label("pruned_at")).where(runs.c.id.in_(ids))
    )
    rows = [{**row, "mac": tombstone_code(audit_key, row)} for row in found.mappings()]
    laid = insert_for(connection, tombstones)
    again = {name: laid.excluded[name] for name in ("status", "seq", "head", "finished_at", "pruned_at", "mac")}
    connection.execute(laid.on_conflict_do_update(index_elements=["run"], set_=again), rows)


def _forget(connection: Connection, older_than: float, key_seconds: float) -> None:
    """Tombstones that outlived their time, owners who died long ago and left nothing behind, and what they knew."""
    connection.execute(delete(tombstones).where(tombstones.c.pruned_at < ago(key_seconds)))
    busy = and_(strands.c.owner == owners.c.id, strands.c.state == literal_column("'running'"))
    holds = exists(select(slots.c.run).where(HOLDS))
    gone = and_(owners.c.dead_at < ago(older_than), ~exists(select(strands.c.run).where(busy)), ~holds)
    connection.execute(delete(owners).where(gone))
    roster.forget(connection, older_than)
    forget_pools(connection, older_than)


def forget_traces(connection: Connection, older_than: float) -> int:
    """Delete where attempts raised that ended before and what they logged, some at a time, also of runs that are not
    pruned; returns of how many.
    """
    return sum(_forget_lines(connection, column, older_than) for column in (attempts.c.trace, attempts.c.log))


def _forget_lines(connection: Connection, column: ColumnElement[str | None], older_than: float) -> int:
    key = tuple(attempts.primary_key.columns)
    some = select(*key).where(and_(column.is_not(None), attempts.c.ended_at < ago(older_than))).limit(TRACES)
    return connection.execute(update(attempts).where(tuple_(*key).in_(some)).values(trace=None, log=None)).rowcount


def _forget_keys(database: Database) -> None:
    # As ``prune_keys`` does, but with the moment as ``ago`` says it: a range of the index of ``expires_at``.
    key = (idempotency_keys.c.client_id, idempotency_keys.c.operation, idempotency_keys.c.key)
    expired = idempotency_keys.c.expires_at < ago(0.0)
    some = select(*key).where(expired).limit(KEYS)
    more = True
    while more:
        with database.transaction() as connection:
            # Asked outside as well: against a key that is claimed anew while this waits for its row.
            more = connection.execute(delete(idempotency_keys).where(tuple_(*key).in_(some), expired)).rowcount >= KEYS


def _let_older_statements_end(database: Database, sleep: Callable[[float], None]) -> None:
    if database.is_sqlite:  # one writer: nothing was under way
        return
    with database.read() as connection:
        read = connection.execution_options(isolation_level="AUTOCOMMIT")
        moment = read.execute(text("SELECT extract(epoch FROM statement_timestamp())::double precision")).scalar_one()
        # No statement lives longer than this; one of another role, which we may not see into, is waited out.
        for _look in range(int(STATEMENT_MILLISECONDS / 1000 / PAUSE_SECONDS) + 20):
            if not read.execute(_OLD_STATEMENTS, {"moment": moment}).scalar_one():
                return
            sleep(PAUSE_SECONDS)
