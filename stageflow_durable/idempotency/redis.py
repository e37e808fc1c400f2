"""A store in Redis or Valkey: each operation is a script (:mod:`stageflow_durable.idempotency.redis_link`)."""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from redis import Redis

from stageflow_durable.codec import as_stored, encode
from stageflow_durable.idempotency.backed import Backed
from stageflow_durable.idempotency.forgetting import Forgetting
from stageflow_durable.idempotency.keys import Scope, redis_key, seconds_of, valid_key
from stageflow_durable.idempotency.redis_link import CONNECTIONS, TIMEOUT_SECONDS, Argument, link_to
from stageflow_durable.idempotency.rules import ERASED_FINGERPRINT, ERASED_RESULT, differing, in_progress, settled
from stageflow_durable.idempotency.script import Script
from stageflow_durable.idempotency.store import (
    Answer,
    Claimed,
    Done,
    Erased,
    IdempotencyStore,
    Loss,
    Mismatch,
    RunAnswer,
    kept,
)

_NOW = "local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)\n"

# The fence outlives the record by being a time: after an expiry or FLUSHALL it starts above every fence before.
# A claim whose answer was lost finds its own token, and is answered again.
_CLAIM = Script(
    _NOW
    + """
local fingerprint, params, owner, token = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local lease, ttl = tonumber(ARGV[5]), tonumber(ARGV[6])
local was = redis.call('HMGET', KEYS[1], 'state', 'fingerprint', 'fence', 'token', 'lease_until')
if was[1] and was[1] ~= 'free' then
  if was[2] ~= fingerprint and was[2] ~= ARGV[7] then
    return {'mismatch', redis.call('HGET', KEYS[1], 'params') or '', was[2]}
  end
  if was[1] == 'done' then return {'done', redis.call('HGET', KEYS[1], 'result')} end
  if was[4] == token then return {'claimed', was[3]} end
  if tonumber(was[5]) > now then
    return {'in progress', was[5], string.format('%d', now), was[3], redis.call('HGET', KEYS[1], 'owner')}
  end
end
local fence = string.format('%d', math.max(tonumber(was[3] or 0) + 1, now))
redis.call('HSET', KEYS[1], 'state', 'held', 'fingerprint', fingerprint, 'params', params, 'owner', owner,
           'token', token, 'fence', fence, 'lease_until', string.format('%d', now + lease))
redis.call('PEXPIREAT', KEYS[1], string.format('%d', now + math.max(lease, ttl)))
return {'claimed', fence}
"""
)

_RENEW = Script(
    _NOW
    + """
local was, lease = redis.call('HMGET', KEYS[1], 'fence', 'state'), tonumber(ARGV[2])
if was[1] ~= ARGV[1] or was[2] ~= 'held' then return 0 end
redis.call('HSET', KEYS[1], 'lease_until', string.format('%d', now + lease))
if redis.call('PTTL', KEYS[1]) < lease then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""
)

_COMPLETE = Script("""
local was = redis.call('HMGET', KEYS[1], 'fence', 'state')
if was[1] ~= ARGV[1] or was[2] == 'free' then return 0 end
if was[2] == 'held' then
  redis.call('HSET', KEYS[1], 'state', 'done', 'result', ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
""")

_RELEASE = Script(
    _NOW
    + """
local was = redis.call('HMGET', KEYS[1], 'fence', 'state')
if was[1] ~= ARGV[1] or was[2] == 'done' then return 0 end
if ARGV[2] == '1' then
  redis.call('HSET', KEYS[1], 'state', 'free')
  redis.call('HDEL', KEYS[1], 'params')
end
redis.call('HSET', KEYS[1], 'lease_until', string.format('%d', now), 'token', '')
return 1
"""
)


class RedisIdempotencyStore(Forgetting):
    """Keys in Redis or Valkey, shared by every process that reaches the server.

    **What a failover can cost.** A claim or a result is as durable as the server makes it. With asynchronous
    replication, a promoted replica may not have the last writes; with ``appendfsync everysec`` a crash loses up to a
    second; an evicted or flushed key is gone. Then a key that was claimed or done is free again: **its work may run a
    second time**, also while the first owner still works. That owner cannot complete (fences are times and do not come
    back), but its effect has happened. Where that is too much, use :class:`SqlIdempotencyStore`, or the engine, for
    which Redis is only an accelerator. Set ``maxmemory-policy noeviction``.

    :param source: a URL, or a client (then bound its timeouts: ``socket_timeout``, ``socket_connect_timeout``).
    :param timeout_seconds: for a URL: how long each attempt to connect and each answer is waited for.
    :param prefix: what the names of all records begin with.
    :param truth: another store, that decides: a key that Redis lost is looked up there, and answers that are remembered
        come from Redis while it has them. While Redis is away, nothing but time is lost.
    """

    def __init__(
        self,
        source: str | Redis,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        prefix: str = "stageflow:idem",
        truth: IdempotencyStore | None = None,
    ) -> None:
        self._link = link_to(source, timeout_seconds, CONNECTIONS)
        self._prefix = prefix
        self._backed = None if truth is None else Backed(self._link, prefix, truth)
        self.survives: frozenset[Loss] = frozenset({Loss.PROCESS}) if truth is None else _survived_by(truth)

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
        if self._backed is not None:
            options: dict[str, Any] = {"owner": owner, "lease_seconds": lease_seconds, "params_text": params_text}
            return self._backed.claim(scope, key, fingerprint, ttl_seconds=ttl_seconds, **options)
        lease, ttl = _milliseconds(lease_seconds, "lease_seconds"), _milliseconds(ttl_seconds, "ttl_seconds")
        given = (params_text or "", valid_key(owner, "owner"), secrets.token_hex(8), lease, ttl, ERASED_FINGERPRINT)
        reply = self._ask(scope, key, fingerprint, *given)
        if reply[0] == "mismatch" and (same := as_stored(fingerprint, reply[2])) == reply[2]:
            reply = self._ask(scope, key, same, *given)  # it was claimed under an earlier version of fingerprints
        return settled(key, _answer(reply, params_text))

    def _ask(self, scope: Scope, key: str, *given: Argument) -> list[str]:
        return [_text(part) for part in self._link.run(_CLAIM, self._name(scope, key), *given)]

    def renew(self, scope: Scope, key: str, fence: int, *, lease_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        if self._backed is not None:
            self._backed.renew(scope, key, fence, lease_seconds=lease_seconds)
            return
        kept(
            self._link.run(_RENEW, self._name(scope, key), fence, _milliseconds(lease_seconds, "lease_seconds")) == 1,
            key,
            fence,
        )

    def complete(self, scope: Scope, key: str, fence: int, result: object, *, ttl_seconds: float | timedelta) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        if self._backed is not None:
            self._backed.complete(scope, key, fence, result, ttl_seconds=ttl_seconds)
            return
        ttl, text = _milliseconds(ttl_seconds, "ttl_seconds"), encode(result)
        kept(self._link.run(_COMPLETE, self._name(scope, key), fence, text, ttl) == 1, key, fence)

    def release(self, scope: Scope, key: str, fence: int, *, vouched: bool = False) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        if self._backed is not None:
            self._backed.release(scope, key, fence, vouched=vouched)
            return
        kept(self._link.run(_RELEASE, self._name(scope, key), fence, int(vouched)) == 1, key, fence)

    def forget(self, scope: Scope, key: str) -> None:
        """See :class:`~stageflow_durable.idempotency.store.IdempotencyStore`."""
        if self._backed is not None:
            self._backed.forget(scope, key)
            return
        super().forget(scope, key)

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self._link.close()

    def _name(self, scope: Scope, key: str) -> str:
        return redis_key(scope, key, self._prefix)


def _survived_by(truth: IdempotencyStore) -> frozenset[Loss]:
    said: frozenset[Loss] = getattr(truth, "survives", frozenset())
    return said | {Loss.REDIS}


def _milliseconds(duration: float | timedelta, what: str) -> int:
    return math.ceil(seconds_of(duration, what) * 1000)


def _text(part: bytes | str) -> str:
    # A client that the application made may decode by itself.
    return part.decode() if isinstance(part, bytes) else part


def _answer(reply: Sequence[str], params: str | None) -> RunAnswer:
    kind, *rest = reply
    match kind:
        case "claimed":
            return Claimed(int(rest[0]))
        case "done":
            return Erased(None) if rest[0] == ERASED_RESULT else Done(rest[0])
        case "mismatch":
            return Mismatch(differing(rest[0] or None, params))
        case _:
            until, now, fence, owner = rest
            return in_progress(int(until) / 1000, int(now) / 1000, int(fence), owner)
