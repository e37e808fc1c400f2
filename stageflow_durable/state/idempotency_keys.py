"""Business keys in SQL: one row a key, taken by one atomic statement, by the database's clock.

Two kinds of holders share the table. A *lease* (the standalone store, ``idempotency_leases``) lapses when its owner
is silent. A *stage of a run* holds its key until the run says otherwise; its functions, here, are called inside the
run's own transactions, which carry the run's fence, and find out by the row, never by raising.

```
 by a lease                                        by a run
 no row | free | expired | lapsed ──► held         no row | free | expired | held by this stage ──► held, without end
 held ──► held (renewed) | done | lapsed | free    held ──► done | free | undone | held for a last while
 done ──► expired                                  done ──► undone | expired
```
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    String,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    event,
    func,
    literal_column,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)

from stageflow_durable.codec import as_stored
from stageflow_durable.idempotency.keys import Scope, address
from stageflow_durable.idempotency.rules import (
    ERASED_FINGERPRINT,
    ERASED_RESULT,
    Claimant,
    KeyRecord,
    KeyState,
    verdict,
)
from stageflow_durable.idempotency.store import Claimed, RunAnswer
from stageflow_durable.state.clock import now as clock
from stageflow_durable.state.metadata import metadata, tie, tied
from stageflow_durable.state.prepared import Prepared

NAME = String(255)

_TIED = ("state", "owner_run", "owner_stage", "keep_seconds", "result", "lease_until", "expires_at")
_TIES = {
    "state_known": "state IN ('free', 'held', 'done', 'undone')",
    "run_with_stage": "(owner_run IS NULL) = (owner_stage IS NULL)",
    "held_by_lease_or_run": "state <> 'held' OR (owner_run IS NULL) = (lease_until IS NOT NULL)",
    "run_keeps": "(owner_run IS NULL) = (keep_seconds IS NULL)",
    "done_has_result": "(state = 'done') = (result IS NOT NULL)",
    "only_a_run_holds_on": "expires_at IS NOT NULL OR (state = 'held' AND owner_run IS NOT NULL)",
}

idempotency_keys = Table(
    "stageflow_idempotency_keys",
    metadata,
    Column("client_id", NAME, primary_key=True),
    Column("operation", NAME, primary_key=True),
    Column("key", NAME, primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    # The encoded parameters, to name the fields in which a duplicate differs.
    Column("params", Text),
    Column("owner", NAME, nullable=False),
    Column("owner_run", String(32)),
    Column("owner_stage", NAME),
    Column("owner_item", Integer, nullable=False, server_default=text("0")),
    Column("fence", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("result", Text),
    Column("lease_until", Double),
    Column("expires_at", Double),
    # How long what a stage of a run found is remembered, for whoever ends the run without the stage.
    Column("keep_seconds", Double),
    # Under which schema of its pipeline a run's result was saved.
    Column("result_schema", Integer),
    *tied("idempotency_keys", _TIED, **_TIES),
    Index("ix_stageflow_idempotency_keys_expires_at", "expires_at"),
    Index(
        "ix_stageflow_idempotency_keys_holder",
        "owner_run",
        postgresql_where=text("owner_run IS NOT NULL"),
        sqlite_where=text("owner_run IS NOT NULL"),
    ),
)


@event.listens_for(idempotency_keys, "before_create")
def _tie(table: Table, connection: Connection, **_more: object) -> None:
    """``SqlIdempotencyStore.create`` makes the table alone."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(tie(table, _TIED, _TIES))


# --- terms that both kinds of holders share ---------------------------------------------------------------------------

KEYS = idempotency_keys.c
HELD, DONE, UNDONE, FREE = (literal_column(f"'{state}'", String) for state in ("held", "done", "undone", "free"))
NOW: ColumnElement[float] = func.coalesce(bindparam("now", type_=Double()), clock())
NEW_FENCE = cast(NOW * literal_column("1000"), BigInteger)
LEASE_END = NOW + bindparam("lease", type_=Double())
EXPIRY = NOW + bindparam("ttl", type_=Double())
TEXT = bindparam("text", type_=Text())
ADDRESS = tuple(bindparam(name, type_=String()) for name in ("at_client", "at_operation", "at_key"))
THIS = and_(
    *(column == given for column, given in zip((KEYS.client_id, KEYS.operation, KEYS.key), ADDRESS, strict=True))
)

RECORD = (
    KEYS.fingerprint,
    KEYS.params,
    KEYS.owner,
    KEYS.owner_run,
    KEYS.owner_stage,
    KEYS.fence,
    KEYS.state,
    KEYS.result,
    KEYS.lease_until,
    KEYS.expires_at,
    KEYS.result_schema,
)
"""What is written under a key, as :func:`record_of` takes it."""

ERASE = update(idempotency_keys).values(
    fingerprint=ERASED_FINGERPRINT,
    params=null(),
    result=case((KEYS.state == DONE, literal_column(f"'{ERASED_RESULT}'", Text)), else_=KEYS.result),
)
"""Erases what keys say of values. They stay taken as they were."""

_KEPT = frozenset({"client_id", "operation", "key", "fence"})
_TAKEN = tuple(column.name for column in idempotency_keys.columns if column.name not in _KEPT)


def taking(insert: Any) -> Any:
    """An INSERT of a holder, which takes over a row that is there to be taken; returns the fence, or no row."""
    new = insert.excluded
    return insert.on_conflict_do_update(
        index_elements=[KEYS.client_id, KEYS.operation, KEYS.key],
        set_={**{name: new[name] for name in _TAKEN}, "fence": larger(KEYS.fence + literal_column("1"), new.fence)},
        where=_takeable(new),
    ).returning(KEYS.fence)


def _takeable(new: Any) -> ColumnElement[bool]:
    """``rules.verdict`` as a condition: against whoever took the key since it was read."""
    ours = and_(KEYS.owner_run == new.owner_run, KEYS.owner_stage == new.owner_stage)
    # A key whose work may have begun stays bound to its parameters, while those are known.
    bound = or_(KEYS.fingerprint == new.fingerprint, KEYS.fingerprint == literal_column(f"'{ERASED_FINGERPRINT}'"))
    again = and_(KEYS.state == HELD, bound, or_(KEYS.lease_until <= NOW, ours))
    return or_(KEYS.state == FREE, KEYS.expires_at <= NOW, again)


def larger(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    """The larger of two."""
    return case((one > other, one), else_=other)


def record_of(values: Sequence[Any]) -> KeyRecord:
    """What is written under a key, from the columns of ``RECORD``."""
    fingerprint, params, owner, run, stage, fence, state, *others = values
    holder = None if run is None else Claimant(run, stage)
    return KeyRecord(fingerprint, params, owner, holder, fence, KeyState(state), *others)


def this_key(scope: Scope, key: str) -> dict[str, str]:
    """The parameters of ``THIS``. Raises InvalidKey."""
    client, operation, name = address(scope, key)
    return {"at_client": client, "at_operation": operation, "at_key": name}


# --- claiming for a run -----------------------------------------------------------------------------------------------

_FIND = Prepared(select(NOW, *RECORD).where(THIS))
_TAKE = Prepared(
    lambda dialect: taking(
        dialect.insert(idempotency_keys).values(
            state=HELD, fence=NEW_FENCE, result=null(), lease_until=null(), expires_at=null()
        )
    )
)


def claim_for_run(
    connection: Connection,
    scope: Scope,
    key: str,
    fingerprint: str,
    params: str | None,
    run_id: str,
    stage: str,
    *,
    ttl_seconds: float,
    now: float | None = None,
) -> RunAnswer:
    """Take a business key for a stage of a run, within the transaction that begins the stage.

    The key does not expire under the stage. The same run and stage get it again, with a higher fence (recovery after a
    crash). What is found is returned, never raised: the outcome of the stage before is in the same transaction.

    :param fingerprint: of the parameters; ``params`` is their encoded text, or None.
    :param ttl_seconds: how long its end will be remembered.
    :param now: seconds since the epoch, for a simulation; None: the database's clock.
    :returns: ``Claimed``; ``Done``; ``HeldByRun``; ``InProgress`` (a lease of the store); ``Undone``; ``Mismatch``.
    :raises InvalidKey: before any statement; check the key with ``valid_key`` where the stage names it.
    """
    named = dict(zip(("client_id", "operation", "key"), address(scope, key), strict=True))
    holder = {"owner": f"run {run_id}", "owner_run": run_id, "owner_stage": stage, "keep_seconds": ttl_seconds}
    given = {**named, **holder, "fingerprint": fingerprint, "params": params, "now": now}
    while True:
        # Reading first answers duplicates without a lock. What it finds free is still taken by one atomic statement;
        # where that is refused somebody else was faster, and there is something to read now.
        row = _FIND.run(connection, **this_key(scope, key), now=now).fetchone()
        standing = row and verdict(record_of(row[1:]), row[0], fingerprint, params, Claimant(run_id, stage))
        if standing is not None:
            return standing
        if row:
            given["fingerprint"] = as_stored(fingerprint, row[1])  # a key stays bound in the version of its row
        fence = _TAKE.value(connection, **given)
        if fence is not None:
            return Claimed(fence)


# --- what a run writes, within its own transactions -------------------------------------------------------------------

# Against another run or stage; a zombie of this stage was refused by the run's own fence before.
_OURS = and_(THIS, KEYS.owner_run == bindparam("at_run"), KEYS.owner_stage == bindparam("at_stage"))
_OPEN = and_(_OURS, KEYS.state == HELD)
_FINISH = Prepared(
    update(idempotency_keys)
    .where(_OPEN)
    .values(state=DONE, result=TEXT, expires_at=EXPIRY, result_schema=bindparam("schema", type_=Integer()))
)
_RELEASE = Prepared(update(idempotency_keys).where(_OPEN).values(state=FREE, params=null(), expires_at=NOW))
_ABANDON = Prepared(update(idempotency_keys).where(_OPEN).values(expires_at=EXPIRY))
_UNDO = Prepared(
    update(idempotency_keys)
    .where(_OURS, or_(KEYS.state == HELD, KEYS.state == DONE))
    .values(state=UNDONE, result=null(), expires_at=EXPIRY)
)


def finish_for_run(
    connection: Connection,
    scope: Scope,
    key: str,
    run_id: str,
    stage: str,
    result_text: str,
    *,
    ttl_seconds: float,
    schema: int = 1,
    now: float | None = None,
) -> bool:
    """The stage is ok: remember its encoded result, saved under ``schema``, for ``ttl_seconds``. False: this stage does
    not hold the key.
    """
    terms = {"text": result_text, "ttl": ttl_seconds, "schema": schema, "now": now}
    return _write(connection, _FINISH, scope, key, at_run=run_id, at_stage=stage, **terms)


def release_for_run(
    connection: Connection, scope: Scope, key: str, run_id: str, stage: str, now: float | None = None
) -> bool:
    """Nothing can have happened (vouched, and no attempt unknown): forget the key. False: this stage does not hold
    it.
    """
    return _write(connection, _RELEASE, scope, key, at_run=run_id, at_stage=stage, now=now)


def undone_for_run(
    connection: Connection,
    scope: Scope,
    key: str,
    run_id: str,
    stage: str,
    *,
    ttl_seconds: float,
    now: float | None = None,
) -> bool:
    """The stage's work was compensated: claims answer ``Undone`` for ``ttl_seconds``. False: the key is not its any
    more.
    """
    return _write(connection, _UNDO, scope, key, at_run=run_id, at_stage=stage, ttl=ttl_seconds, now=now)


def abandon_for_run(
    connection: Connection,
    scope: Scope,
    key: str,
    run_id: str,
    stage: str,
    *,
    ttl_seconds: float,
    now: float | None = None,
) -> bool:
    """The stage has failed, in doubt whether it acted: claims answer ``HeldByRun`` for ``ttl_seconds``, then it is
    free.

    False: this stage does not hold the key.
    """
    return _write(connection, _ABANDON, scope, key, at_run=run_id, at_stage=stage, ttl=ttl_seconds, now=now)


def erase_for_run(connection: Connection, run_id: str) -> None:
    """Erase what the keys of a run keep of its values; they stay taken."""
    connection.execute(ERASE.where(KEYS.owner_run == run_id))


_HELD_BY = Prepared(
    select(KEYS.client_id, KEYS.operation, KEYS.key, KEYS.owner_stage, KEYS.keep_seconds).where(
        KEYS.owner_run == bindparam("at_run"), KEYS.state == HELD
    )
)


class HeldKey(NamedTuple):
    """A key that a stage of a run holds, and how long its end will be remembered."""

    scope: Scope
    key: str
    stage: str
    ttl_seconds: float


def held_by_run(connection: Connection, run_id: str) -> list[HeldKey]:
    """The keys that stages of a run hold."""
    return [
        HeldKey(Scope(client, operation), key, stage, float(keep))
        for client, operation, key, stage, keep in _HELD_BY.run(connection, at_run=run_id).fetchall()
    ]


def _write(connection: Connection, statement: Prepared, scope: Scope, key: str, **values: object) -> bool:
    return bool(statement.run(connection, **this_key(scope, key), **values).rowcount == 1)


# --- housekeeping -----------------------------------------------------------------------------------------------------

_OLD = select(KEYS.client_id, KEYS.operation, KEYS.key).where(KEYS.expires_at <= NOW).limit(bindparam("most"))
# The condition stands outside as well: against a key that is claimed anew while this statement waits for its row.
_PRUNE = delete(idempotency_keys).where(
    tuple_(KEYS.client_id, KEYS.operation, KEYS.key).in_(_OLD), KEYS.expires_at <= NOW
)


def prune_keys(connection: Connection, *, limit: int = 1000, now: float | None = None) -> int:
    """Delete at most ``limit`` expired keys; returns how many."""
    return connection.execute(_PRUNE, {"most": limit, "now": now}).rowcount
