"""An idempotency store inside one process: for tests, and for a process that is alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

from stageflow_durable.codec import encode
from stageflow_durable.idempotency.keys import Scope, address, seconds_of, valid_key
from stageflow_durable.idempotency.rules import (
    KeyRecord,
    KeyState,
    completed,
    forgotten,
    next_fence,
    released,
    renewed,
    settled,
    verdict,
)
from stageflow_durable.idempotency.store import Answer, Claimed, Loss, kept

SWEEP_EVERY = 1000
"""Claims between two looks for expired records."""


class MemoryIdempotencyStore:
    """Keys in a dictionary: shared by the threads of one process, gone with it.

    :param clock: seconds since the epoch; leases and lifetimes are measured by it.
    """

    survives: frozenset[Loss] = frozenset({Loss.REDIS})

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str, str], KeyRecord] = {}
        self._claims = 0

    def __len__(self) -> int:
        return len(self._records)

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
        where = address(scope, key)
        lease, ttl = seconds_of(lease_seconds, "lease_seconds"), seconds_of(ttl_seconds, "ttl_seconds")
        valid_key(owner, "owner")
        with self._lock:
            now = self._now()
            before = self._records.get(where)
            standing = verdict(before, now, fingerprint, params_text)
            if standing is None:
                fence = next_fence(before.fence if before else 0, now)
                self._records[where] = KeyRecord(
                    fingerprint,
                    params_text,
                    owner,
                    None,
                    fence,
                    KeyState.HELD,
                    None,
                    now + lease,
                    now + max(lease, ttl),
                )
                return Claimed(fence)
        return settled(key, standing)

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        lease = seconds_of(lease_seconds, "lease_seconds")
        self._write(scope, key, fence, lambda record, now: renewed(record, fence, now, lease))

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        ttl, text = seconds_of(ttl_seconds, "ttl_seconds"), encode(result)
        self._write(scope, key, fence, lambda record, now: completed(record, fence, now, text, ttl))

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._write(scope, key, fence, lambda record, now: released(record, fence, now, vouched))

    def forget(self, scope: Scope, key: str) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        where = address(scope, key)
        with self._lock:
            if where in self._records:
                self._records[where] = forgotten(self._records[where])

    def _write(
        self, scope: Scope, key: str, fence: int, change: Callable[[KeyRecord, float], KeyRecord | None]
    ) -> None:
        where = address(scope, key)
        with self._lock:
            record = self._records.get(where)
            after = record and change(record, self._clock())
            if after:
                self._records[where] = after
        kept(after is not None, key, fence)

    def _now(self) -> float:
        # Looking at all records once in a while keeps memory bounded at a constant cost a claim.
        now = self._clock()
        self._claims += 1
        if self._claims % SWEEP_EVERY == 0:
            self._records = {
                where: record for where, record in self._records.items() if (record.expires_at or now) > now
            }
        return now
