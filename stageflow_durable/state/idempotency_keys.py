"""Business keys in SQL: one row a key, taken by one atomic statement, by the database's clock.

Two kinds of holders share the table. A *lease* (the standalone store) lapses when its owner is silent. A *stage of a
run* holds its key until the run says otherwise; its functions are called inside the run's own transactions, which
carry the run's fence, and find out by the row, never by raising.

```
 by a lease                                        by a run
 no row | free | expired | lapsed ──► held         no row | free | expired | held by this stage ──► held, without end
 held ──► held (renewed) | done | lapsed | free    held ──► done | free | undone | held for a last while
 done ──► expired                                  done ──► undone | expired
```
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
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
    func,
    literal,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)

from stageflow_durable.idempotency.keys import Scope, address
from stageflow_durable.idempotency.rules import Claimant, KeyRecord, KeyState, verdict
from stageflow_durable.idempotency.store import Claimed, RunAnswer, Standing
from stageflow_durable.state.clock import now as clock
from stageflow_durable.state.metadata import Condition, metadata
from stageflow_durable.state.prepared import Prepared

NAME = String(255)

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
    Column("fence", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("result", Text),
    Column("lease_until", Double),
    Column("expires_at", Double),
    # How long what a stage of a run found is remembered, for whoever ends the run without the stage.
    Column("keep_seconds", Double),
    # Under which schema of its pipeline a run's result was saved.
    Column("result_schema", Integer),
    CheckConstraint(Condition("state IN ('free', 'held', 'done', 'undone')"), name="state_known"),
    CheckConstraint("(owner_run IS NULL) = (owner_stage IS NULL)", name="run_with_stage"),
    CheckConstraint("state <> 'held' OR (owner_run IS NULL) = (lease_until IS NOT NULL)", name="held_by_lease_or_run"),
    CheckConstraint("(owner_run IS NULL) = (keep_seconds IS NULL)", name="run_keeps"),
    CheckConstraint("(state = 'done') = (result IS NOT NULL)", name="done_has_result"),
    CheckConstraint("expires_at IS NOT NULL OR (state = 'held' AND owner_run IS NOT NULL)", name="only_a_run_holds_on"),
    Index("ix_stageflow_idempotency_keys_expires_at", "expires_at"),
    Index(
        "ix_stageflow_idempotency_keys_holder",
        "owner_run",
        postgresql_where=text("owner_run IS NOT NULL"),
        sqlite_where=text("owner_run IS NOT NULL"),
    ),
)

_T = idempotency_keys.c
_HELD, _DONE, _UNDONE, _FREE = (literal(state) for state in ("held", "done", "undone", "free"))
_NOW: ColumnElement[float] = func.coalesce(bindparam("now", type_=Double()), clock())
_LEASE_END = _NOW + bindparam("lease", type_=Double())
_EXPIRY = _NOW + bindparam("ttl", type_=Double())
_TEXT = bindparam("text", type_=Text())
_THIS = and_(
    _T.client_id == bindparam("at_client"), _T.operation == bindparam("at_operation"), _T.key == bindparam("at_key")
)

# --- claiming ---------------------------------------------------------------------------------------------------------


def claim_for_lease(
    connection: Connection,
    scope: Scope,
    key: str,
    fingerprint: str,
    params: str | None,
    *,
    owner: str,
    lease: float,
    ttl: float,
    now: float | None = None,
) -> RunAnswer:
    """Take the key for ``lease`` seconds, to be remembered ``ttl`` seconds at least, or say what stands in the way."""
    terms = {"owner": owner, "lease": lease, "ttl": max(lease, ttl), "keep_seconds": None, "now": now}
    return _claim(connection, scope, key, fingerprint, params, None, terms)


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
    terms = {"owner": f"run {run_id}", "lease": None, "ttl": None, "keep_seconds": ttl_seconds, "now": now}
    return _claim(connection, scope, key, fingerprint, params, Claimant(run_id, stage), terms)


def standing_of(
    connection: Connection,
    scope: Scope,
    key: str,
    fingerprint: str,
    params: str | None,
    claimant: Claimant | None = None,
    now: float | None = None,
) -> Standing | None:
    """What stands in the way of a claim just now, or None: nothing did. Reads only."""
    row = next(iter(_FIND.rows(connection, **_at(scope, key), now=now)), None)
    return None if row is None else verdict(_record(row), row.now, fingerprint, params, claimant)


def _claim(
    connection: Connection,
    scope: Scope,
    key: str,
    fingerprint: str,
    params: str | None,
    claimant: Claimant | None,
    terms: dict[str, Any],
) -> RunAnswer:
    named = dict(zip(("client_id", "operation", "key"), address(scope, key), strict=True))
    holder = dict(zip(("owner_run", "owner_stage"), claimant or (None, None), strict=True))
    values = {**named, **holder, **terms, "fingerprint": fingerprint, "params": params}
    while True:
        # Reading first answers duplicates without a lock. What it finds free is still taken by one atomic statement;
        # where that is refused somebody else was faster, and there is something to read now.
        standing = standing_of(connection, scope, key, fingerprint, params, claimant, terms["now"])
        if standing is not None:
            return standing
        fence = _TAKE.value(connection, **values)
        if fence is not None:
            return Claimed(fence)


def _take(dialect: Any) -> Any:
    statement = dialect.insert(idempotency_keys).values(
        state=_HELD, fence=cast(_NOW * 1000, BigInteger), result=null(), lease_until=_LEASE_END, expires_at=_EXPIRY
    )
    new = statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[_T.client_id, _T.operation, _T.key],
        set_={**{name: new[name] for name in _TAKEN}, "fence": _larger(_T.fence + 1, new.fence)},
        where=_takeable(new),
    ).returning(_T.fence)


def _takeable(new: Any) -> ColumnElement[bool]:
    """``rules.verdict`` as a condition: against whoever took the key since it was read."""
    ours = and_(_T.owner_run == new.owner_run, _T.owner_stage == new.owner_stage)
    # A key whose work may have begun stays bound to its parameters.
    again = and_(_T.state == _HELD, _T.fingerprint == new.fingerprint, or_(_T.lease_until <= _NOW, ours))
    return or_(_T.state == _FREE, _T.expires_at <= _NOW, again)


def _larger(one: ColumnElement[Any], other: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((one > other, one), else_=other)


_KEPT = frozenset({"client_id", "operation", "key", "fence"})
_TAKEN = tuple(column.name for column in idempotency_keys.columns if column.name not in _KEPT)
_FIND = Prepared(select(idempotency_keys, _NOW.label("now")).where(_THIS))
_TAKE = Prepared(_take)


def _record(row: Any) -> KeyRecord:
    holder = None if row.owner_run is None else Claimant(row.owner_run, row.owner_stage)
    return KeyRecord(
        row.fingerprint,
        row.params,
        row.owner,
        holder,
        row.fence,
        KeyState(row.state),
        row.result,
        row.lease_until,
        row.expires_at,
        row.result_schema,
    )


def _at(scope: Scope, key: str) -> dict[str, str]:
    return dict(zip(("at_client", "at_operation", "at_key"), address(scope, key), strict=True))


# --- what the owner of a lease writes ---------------------------------------------------------------------------------

# Against an owner that was silent until another took the key over, or until the record had expired.
_FENCED = and_(_THIS, _T.owner_run.is_(None), _T.fence == bindparam("at_fence"), _T.expires_at > _NOW)
_RENEW = Prepared(
    update(idempotency_keys)
    .where(_FENCED, _T.state == _HELD)
    .values(lease_until=_LEASE_END, expires_at=_larger(_T.expires_at, _LEASE_END))
)
# A result that is said again, because the answer to the first time was lost, changes nothing.
_COMPLETE = Prepared(
    update(idempotency_keys)
    .where(_FENCED, or_(_T.state == _HELD, _T.state == _DONE))
    .values(
        state=_DONE,
        lease_until=null(),
        result=func.coalesce(_T.result, _TEXT),
        expires_at=case((_T.state == _HELD, _EXPIRY), else_=_T.expires_at),
    )
)
_LET = update(idempotency_keys).where(_FENCED, or_(_T.state == _HELD, _T.state == _FREE)).values(lease_until=_NOW)
_LAPSE, _FORGET = Prepared(_LET), Prepared(_LET.values(state=_FREE, params=null()))


def renew_lease(
    connection: Connection, scope: Scope, key: str, fence: int, lease: float, now: float | None = None
) -> bool:
    """Extend the lease to ``lease`` seconds from now. False: the fence is no longer the owner's."""
    return _write(connection, _RENEW, scope, key, at_fence=fence, lease=lease, now=now)


def complete_lease(
    connection: Connection, scope: Scope, key: str, fence: int, result_text: str, ttl: float, now: float | None = None
) -> bool:
    """Remember the encoded result for ``ttl`` seconds; a fence's first stays. False: the fence is no longer the
    owner's.
    """
    return _write(connection, _COMPLETE, scope, key, at_fence=fence, text=result_text, ttl=ttl, now=now)


def release_lease(
    connection: Connection, scope: Scope, key: str, fence: int, *, vouched: bool, now: float | None = None
) -> bool:
    """End the lease now; ``vouched`` forgets the key. False: the fence is no longer the owner's."""
    return _write(connection, _FORGET if vouched else _LAPSE, scope, key, at_fence=fence, now=now)


# --- what a run writes, within its own transactions -------------------------------------------------------------------

# Against another run or stage; a zombie of this stage was refused by the run's own fence before.
_OURS = and_(_THIS, _T.owner_run == bindparam("at_run"), _T.owner_stage == bindparam("at_stage"))
_OPEN = and_(_OURS, _T.state == _HELD)
_FINISH = Prepared(
    update(idempotency_keys)
    .where(_OPEN)
    .values(state=_DONE, result=_TEXT, expires_at=_EXPIRY, result_schema=bindparam("schema", type_=Integer()))
)
_RELEASE = Prepared(update(idempotency_keys).where(_OPEN).values(state=_FREE, params=null(), expires_at=_NOW))
_ABANDON = Prepared(update(idempotency_keys).where(_OPEN).values(expires_at=_EXPIRY))
_UNDO = Prepared(
    update(idempotency_keys)
    .where(_OURS, or_(_T.state == _HELD, _T.state == _DONE))
    .values(state=_UNDONE, result=null(), expires_at=_EXPIRY)
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


_HELD_BY = Prepared(
    select(_T.client_id, _T.operation, _T.key, _T.owner_stage, _T.keep_seconds).where(
        _T.owner_run == bindparam("at_run"), _T.state == _HELD
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
    return bool(statement.run(connection, **_at(scope, key), **values).rowcount == 1)


# --- housekeeping -----------------------------------------------------------------------------------------------------

_OLD = select(_T.client_id, _T.operation, _T.key).where(_T.expires_at <= _NOW).limit(bindparam("most"))
# The condition stands outside as well: against a key that is claimed anew while this statement waits for its row.
_PRUNE = delete(idempotency_keys).where(tuple_(_T.client_id, _T.operation, _T.key).in_(_OLD), _T.expires_at <= _NOW)


def prune_keys(connection: Connection, *, limit: int = 1000, now: float | None = None) -> int:
    """Delete at most ``limit`` expired keys; returns how many."""
    return connection.execute(_PRUNE, {"most": limit, "now": now}).rowcount
