"""Duplicates of a Celery message, dropped before the database is touched. A hint: the rows decide, with Redis or
without.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from redis import ConnectionPool, Redis

from stageflow_durable.errors import ConfigurationError, StoreUnavailable
from stageflow_durable.idempotency.redis_link import Link, RedisLink, link_to
from stageflow_durable.idempotency.script import Script
from stageflow_durable.idempotency.wires import pool_of

log = logging.getLogger("stageflow.gate")

PAUSE_SECONDS = 1.0
"""How long Redis is left alone after it did not answer."""

# The owner may ask again: its own claim whose answer was lost is not a duplicate.
_CLAIM = Script("""
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0
""")

_RELEASE = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")


def _link(source: str | Redis | None, timeout_seconds: float, lean: bool) -> Link | None:
    if source is None:
        return None
    try:
        if isinstance(source, str):
            pool_of(ConnectionPool, source)
        # Any number of connections: a worker has as many threads as it has, and none of them is to wait for another.
        return link_to(source, timeout_seconds) if lean else RedisLink(source, timeout_seconds)
    except ConfigurationError as error:
        log.warning("%s; messages are not claimed there, the rows alone drop duplicates", error)
        return None


class NudgeGate:
    """Lets the first of equal nudges pass. Where Redis is away, or not used at all, it lets all of them pass.

    Safe to make before a fork: each process gets a client of its own at its first nudge.

    :param source: a Redis URL or client, or None: no gate.
    :param timeout_seconds: bounds each connecting and each answer; a gate that is slower than the database is of no
        use.
    :param clock: seconds, monotonic.
    :param lean: for a URL: over a connection that is kept for it, past redis-py's client and its pool.
    """

    def __init__(
        self,
        source: str | Redis | None,
        *,
        timeout_seconds: float = 0.25,
        pause_seconds: float = PAUSE_SECONDS,
        prefix: str = "stageflow:nudge",
        clock: Callable[[], float] = time.monotonic,
        lean: bool = True,
    ) -> None:
        self._link = _link(source, timeout_seconds, lean)
        self._pause = pause_seconds
        self._prefix = prefix
        self._clock = clock
        self._closed_until = float("-inf")

    def claim(self, nudge_key: str, owner: str, ttl_ms: int) -> bool:
        """Whether to go on with the message: True for the first ``owner`` within ``ttl_ms`` milliseconds, and for that
        owner again; True for everybody while Redis is away. False: a duplicate, drop it. Never raises for Redis.
        """
        return self._ask(_CLAIM, nudge_key, owner, ttl_ms) != 0

    def release(self, nudge_key: str, owner: str) -> None:
        """Let the next equal nudge pass: this one was not acted upon (the database was away). Never raises for
        Redis.
        """
        self._ask(_RELEASE, nudge_key, owner)

    def close(self) -> None:
        """Close this process's connections; the next nudge opens new ones."""
        if self._link is not None:
            self._link.close()

    def _ask(self, script: Script, nudge_key: str, *arguments: str | int) -> object:
        if self._link is None or self._clock() < self._closed_until:
            return None
        try:
            return self._link.run(script, f"{self._prefix}:{nudge_key}", *arguments)
        except StoreUnavailable:
            # Not an error: the rows are the truth, this only saved a look at them.
            self._closed_until = self._clock() + self._pause
            return None
