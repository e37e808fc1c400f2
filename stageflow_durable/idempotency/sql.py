"""An idempotency store in the SQL database: as durable as the database itself."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import Connection

from stageflow_durable.codec import encode
from stageflow_durable.idempotency.keys import Scope, seconds_of, valid_key
from stageflow_durable.idempotency.rules import settled
from stageflow_durable.idempotency.store import Answer, kept
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_keys import (
    claim_for_lease,
    complete_lease,
    idempotency_keys,
    prune_keys,
    release_lease,
    renew_lease,
    standing_of,
)


class SqlIdempotencyStore:
    """Keys in PostgreSQL or SQLite: one atomic statement a claim, short transactions, leases by the database's clock.

    The table is the engine's: a key that a run holds is in progress here until the run says otherwise. ``stageflow db
    upgrade`` makes the table; without the engine :meth:`create` does.

    :param source: a SQLAlchemy URL (``postgresql+psycopg://…``, ``sqlite:///…``), or an open :class:`Database`.
    """

    def __init__(self, source: str | Database) -> None:
        self._database = Database(source) if isinstance(source, str) else source

    def create(self) -> None:
        """Make the table where it is missing."""
        with self._database.transaction() as connection:
            idempotency_keys.create(connection, checkfirst=True)

    def close(self) -> None:
        """Close this process's connections."""
        self._database.dispose()

    def prune(self, limit: int = 1000) -> int:
        """Delete at most ``limit`` expired keys; returns how many. They answer nothing any more, they only take
        room.
        """
        with self._database.transaction() as connection:
            return prune_keys(connection, limit=limit)

    def claim(
        self,
        scope: Scope,
        key: str,
        fingerprint: str,
        *,
        owner: str,
        lease_seconds: float | timedelta,
        ttl_seconds: float | timedelta,
        params_text: str | None = None,
    ) -> Answer:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        lease, ttl = seconds_of(lease_seconds, "lease_seconds"), seconds_of(ttl_seconds, "ttl_seconds")
        valid_key(owner, "owner")
        # A duplicate, the common case under load, is answered without a write transaction.
        with self._database.read() as connection:
            standing = standing_of(connection, scope, key, fingerprint, params_text)
        if standing is not None:
            return settled(key, standing)
        with self._database.transaction() as connection:
            answer = claim_for_lease(
                connection, scope, key, fingerprint, params_text, owner=owner, lease=lease, ttl=ttl
            )
        return settled(key, answer)

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        lease = seconds_of(lease_seconds, "lease_seconds")
        self._write(key, fence, lambda connection: renew_lease(connection, scope, key, fence, lease))

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        ttl, text = seconds_of(ttl_seconds, "ttl_seconds"), encode(result)
        self._write(key, fence, lambda connection: complete_lease(connection, scope, key, fence, text, ttl))

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._write(key, fence, lambda connection: release_lease(connection, scope, key, fence, vouched=vouched))

    def _write(self, key: str, fence: int, change: Callable[[Connection], bool]) -> None:
        with self._database.transaction() as connection:
            written = change(connection)
        kept(written, key, fence)
