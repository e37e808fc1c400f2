"""Redis in front of a store that decides: it answers for results that are final, and may lose all it has.

Every claim that is not answered from Redis, and every write of an owner, is the other store's. What Redis holds of a
key is bound to the fence under which it was claimed, so that a late write of an owner that lost it fills nothing in,
and ends no later than the result does.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from stageflow_durable.codec import as_stored, encode
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.idempotency.keys import Scope, redis_key, seconds_of
from stageflow_durable.idempotency.redis_link import Link
from stageflow_durable.idempotency.script import Script
from stageflow_durable.idempotency.store import Answer, Claimed, Done, IdempotencyStore

AGAIN_SECONDS = 1.0
"""How long Redis is left alone after it did not answer."""

_LOOK = Script("return redis.call('HMGET', KEYS[1], 'fingerprint', 'result')")
_BIND = Script("""
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'fingerprint', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
""")
_DROP = Script("return redis.call('DEL', KEYS[1])")
_FILL = Script("""
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
if redis.call('HSETNX', KEYS[1], 'result', ARGV[2]) == 0 then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[3])
""")


class Backed:
    """``truth`` decides; what it has remembered is answered from Redis while Redis has it."""

    def __init__(self, link: Link, prefix: str, truth: IdempotencyStore) -> None:
        self._link, self._prefix, self._truth = link, f"{prefix}:done", truth
        self._closed_until = 0.0

    def claim(self, scope: Scope, key: str, fingerprint: str, *, ttl_seconds: float | timedelta, **more: Any) -> Answer:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        known = self._ask(_LOOK, scope, key)
        if known is not None and known[0] is not None and known[1] is not None:
            before, result = (part.decode() if isinstance(part, bytes) else part for part in known)
            if before == as_stored(fingerprint, before):
                return Done(result)  # with another fingerprint the truth says what differs
        answer = self._truth.claim(scope, key, fingerprint, ttl_seconds=ttl_seconds, **more)
        if isinstance(answer, Claimed):
            longest = max(seconds_of(ttl_seconds, "ttl_seconds"), seconds_of(more["lease_seconds"], "lease_seconds"))
            self._ask(_BIND, scope, key, answer.fence, fingerprint, int(longest * 1000) + 1)
        return answer

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._truth.renew(scope, key, fence, lease_seconds=lease_seconds)

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        began = time.monotonic()
        self._truth.complete(scope, key, fence, result, ttl_seconds=ttl_seconds)
        left = int((seconds_of(ttl_seconds, "ttl_seconds") - (time.monotonic() - began)) * 1000)
        if left > 0:
            self._ask(_FILL, scope, key, fence, encode(result), left)

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        self._truth.release(scope, key, fence, vouched=vouched)

    def forget(self, scope: Scope, key: str) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`. Raises StoreUnavailable where Redis may
        have it still.
        """
        self._truth.forget(scope, key)
        self._link.run(_DROP, redis_key(scope, key, self._prefix))

    def _ask(self, script: Script, scope: Scope, key: str, *given: str | int) -> Any:
        """What Redis says; None where it is away, which costs time and nothing else."""
        if time.monotonic() < self._closed_until:
            return None
        try:
            return self._link.run(script, redis_key(scope, key, self._prefix), *given)
        except StoreUnavailable:
            self._closed_until = time.monotonic() + AGAIN_SECONDS
            return None
