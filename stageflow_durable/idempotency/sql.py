"""An idempotency store in the SQL database: as durable as the database itself."""

from __future__ import annotations

from datetime import timedelta

from stageflow_durable.codec import encode
from stageflow_durable.idempotency.keys import Scope, seconds_of, valid_key
from stageflow_durable.idempotency.rules import settled
from stageflow_durable.idempotency.store import Answer, Loss, kept
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_keys import idempotency_keys, prune_keys
from stageflow_durable.state.idempotency_leases import Leases


class SqlIdempotencyStore:
    """Keys in PostgreSQL or SQLite: each statement a transaction of its own, leases by the database's clock.

    The table is the engine's: a key that a run holds is in progress here until the run says otherwise. ``stageflow db
    upgrade`` makes the table; without the engine :meth:`create` does.

    :param source: a SQLAlchemy URL (``postgresql+psycopg://…``, ``sqlite:///…``), or an open :class:`Database`;
        behind a pooler that hands each transaction another connection one made with ``prepares=False``.
    """

    survives = frozenset(Loss)

    def __init__(self, source: str | Database) -> None:
        self._database = Database(source) if isinstance(source, str) else source
        self._leases = Leases(self._database)

    def create(self) -> None:
        """Make the table where it is missing."""
        with self._database.transaction() as connection:
            idempotency_keys.create(connection, checkfirst=True)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._leases.close()
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
        answer = self._leases.claim(scope, key, fingerprint, params_text, owner=owner, lease=lease, ttl=ttl)
        return settled(key, answer)

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        lease = seconds_of(lease_seconds, "lease_seconds")
        kept(self._leases.renew(scope, key, fence, lease), key, fence)

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        ttl, text = seconds_of(ttl_seconds, "ttl_seconds"), encode(result)
        kept(self._leases.complete(scope, key, fence, text, ttl), key, fence)

    def forget(self, scope: Scope, key: str) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._leases.erase(scope, key)

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        kept(self._leases.release(scope, key, fence, vouched=vouched), key, fence)
