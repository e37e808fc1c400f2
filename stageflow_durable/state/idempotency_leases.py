"""Business keys that leases hold: a claim is one to three statements, each in a transaction of its own.

```
claim ──► nobody had it ──► insert ────────────────────────────────────────► Claimed
      └──► a row is there ──► read ──► somebody's ─────────────────────────► Done, InProgress, …
                                  └──► free, expired, lapsed ──► take it ──► Claimed, with a higher fence
```
Both takings are atomic: who was slower reads. PostgreSQL is asked to insert first, as most keys are new (ADR 0023); a
duplicate that comes while its row is being written waits for that transaction, and answers what it wrote. SQLite, where
inserting waits for every writer and a trip costs nothing, reads first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    String,
    Text,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from stageflow_durable.codec import as_stored
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.rules import verdict
from stageflow_durable.idempotency.store import Claimed, RunAnswer, Standing
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.idempotency_keys import (
    ADDRESS,
    DONE,
    ERASE,
    EXPIRY,
    FREE,
    HELD,
    KEYS,
    LEASE_END,
    NEW_FENCE,
    NOW,
    RECORD,
    TEXT,
    THIS,
    idempotency_keys,
    larger,
    record_of,
    taking,
    this_key,
)
from stageflow_durable.state.single import Singles

Given: TypeAlias = Mapping[str, Any]
"""Parameters by name."""


class Leases:
    """Claims and what their owners write, on one database. ``now``, seconds since the epoch: for tests; None: the
    database's clock.
    """

    def __init__(self, database: Database) -> None:
        self._singles = Singles(database)

    def claim(
        self,
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
        """Take the key for ``lease`` seconds, to be remembered ``ttl`` seconds at least, or say what stands in the
        way.
        """
        given: dict[str, Any] = this_key(scope, key) | {
            "fingerprint": fingerprint,
            "params": params,
            "owner": owner,
            "lease": lease,
            "ttl": max(lease, ttl),
            "now": now,
        }
        singles, is_sqlite = self._singles, self._singles.is_sqlite
        taken: list[tuple[Any, ...]] = []
        if is_sqlite:
            found = singles.rows(_find(is_sqlite), given)
        else:
            taken, found = singles.either(_add(), _find(is_sqlite), given)
        while not taken:
            standing = _standing(found, fingerprint, params)
            if standing is not None:
                return standing
            if found:
                given["fingerprint"] = as_stored(fingerprint, found[0][1])  # a key stays bound in its row's version
            taken, found = singles.either(_take(is_sqlite), _find(is_sqlite), given)
        return Claimed(taken[0][0])

    def renew(self, scope: Scope, key: str, fence: int, lease: float) -> bool:
        """Extend the lease to ``lease`` seconds from now. False: the fence is no longer the owner's."""
        return self._write(_renew, scope, key, at_fence=fence, lease=lease)

    def complete(self, scope: Scope, key: str, fence: int, result_text: str, ttl: float) -> bool:
        """Remember the encoded result for ``ttl`` seconds; a fence's first stays. False: the fence is no longer the
        owner's.
        """
        return self._write(_complete, scope, key, at_fence=fence, text=result_text, ttl=ttl)

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool) -> bool:
        """End the lease now; ``vouched`` forgets the key. False: the fence is no longer the owner's."""
        return self._write(_forget if vouched else _lapse, scope, key, at_fence=fence)

    def erase(self, scope: Scope, key: str) -> None:
        """Erase what the key says of values. It stays taken as it was."""
        self._write(_erase, scope, key)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._singles.close()

    def _write(self, statement: Callable[[bool], Statement], scope: Scope, key: str, **given: object) -> bool:
        # By the database's clock: only a run's own transaction has a time of its own.
        given = {**this_key(scope, key), "now": None, **given}
        return self._singles.touched(statement(self._singles.is_sqlite), given)


# --- claiming ---------------------------------------------------------------------------------------------------------


def _standing(found: list[tuple[Any, ...]], fingerprint: str, params: str | None) -> Standing | None:
    if not found:
        return None
    ((now, *record),) = found
    return verdict(record_of(record), now, fingerprint, params)


_FINGERPRINT = bindparam("fingerprint", type_=String())
_HOLDER: dict[str, Any] = {
    **dict(zip(("client_id", "operation", "key"), ADDRESS, strict=True)),
    "fingerprint": _FINGERPRINT,
    "params": bindparam("params", type_=Text()),
    "owner": bindparam("owner", type_=String()),
    "state": HELD,
    "fence": NEW_FENCE,
    "lease_until": LEASE_END,
    "expires_at": EXPIRY,
}


@lru_cache(maxsize=2)
def _find(is_sqlite: bool) -> Statement:
    return Statement(select(NOW, *RECORD).where(THIS), is_sqlite=is_sqlite)


@lru_cache(maxsize=1)
def _add() -> Statement:
    new = postgresql.insert(idempotency_keys).values(_HOLDER).on_conflict_do_nothing()
    return Statement(new.returning(KEYS.fence), is_sqlite=False)


@lru_cache(maxsize=2)
def _take(is_sqlite: bool) -> Statement:
    dialect: Any = sqlite if is_sqlite else postgresql
    holder = select(*_HOLDER.values()).where(true())  # without it SQLite reads the upsert's ON as a join's
    taken = taking(dialect.insert(idempotency_keys).from_select(list(_HOLDER), holder))
    return Statement(taken, is_sqlite=is_sqlite)


# --- what the owner of a lease writes ---------------------------------------------------------------------------------

# Against an owner that was silent until another took the key over, or until the record had expired.
_FENCED = and_(
    THIS, KEYS.owner_run.is_(None), KEYS.fence == bindparam("at_fence", type_=BigInteger()), KEYS.expires_at > NOW
)


@lru_cache(maxsize=2)
def _renew(is_sqlite: bool) -> Statement:
    renewed = update(idempotency_keys).where(_FENCED, KEYS.state == HELD)
    values = {"lease_until": LEASE_END, "expires_at": larger(KEYS.expires_at, LEASE_END)}
    return Statement(renewed.values(values), is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def _complete(is_sqlite: bool) -> Statement:
    # A result that is said again, because the answer to the first time was lost, changes nothing.
    completed = update(idempotency_keys).where(_FENCED, or_(KEYS.state == HELD, KEYS.state == DONE))
    values = {
        "state": DONE,
        "lease_until": null(),
        "result": func.coalesce(KEYS.result, TEXT),
        "expires_at": case((KEYS.state == HELD, EXPIRY), else_=KEYS.expires_at),
    }
    return Statement(completed.values(values), is_sqlite=is_sqlite)


_LET = update(idempotency_keys).where(_FENCED, or_(KEYS.state == HELD, KEYS.state == FREE)).values(lease_until=NOW)


@lru_cache(maxsize=2)
def _lapse(is_sqlite: bool) -> Statement:
    return Statement(_LET, is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def _forget(is_sqlite: bool) -> Statement:
    return Statement(_LET.values(state=FREE, params=null()), is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def _erase(is_sqlite: bool) -> Statement:
    return Statement(ERASE.where(THIS, KEYS.owner_run.is_(None)), is_sqlite=is_sqlite)
