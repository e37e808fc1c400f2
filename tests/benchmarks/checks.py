"""How long one idempotency check takes, beside the least that its store could do; call by call in turn, forth and
back: what follows a commit finds a colder machine than what follows a read.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from redis import Redis

from stageflow_durable.codec import fingerprint
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.memory import MemoryIdempotencyStore
from stageflow_durable.idempotency.redis import RedisIdempotencyStore
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, Done, IdempotencyStore

SCOPE = Scope("bench", "check")
KNOWN = "known"
PARAMS = fingerprint({"n": 1})
RESULT = {"answer": 42}
Call = Callable[[], object]
_numbers = itertools.count()


class Checks:
    """The three stores, and a connection beside each; :meth:`of` gives microseconds at the median and at 99 %."""

    def __init__(self, database_url: str, broker_url: str) -> None:
        self._memory, self._redis = MemoryIdempotencyStore(), RedisIdempotencyStore(broker_url)
        self._sql = SqlIdempotencyStore(database_url)
        self._bare_redis: Any = Redis.from_url(broker_url)
        self._bare_sql = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
        self._prepare()

    def _prepare(self) -> None:
        for store in (self._memory, self._redis, self._sql):
            answer = _claim(store, KNOWN)
            assert isinstance(answer, Claimed)
            store.complete(SCOPE, KNOWN, answer.fence, RESULT, ttl_seconds=3600)
        self._bare_redis.set("bare", "x" * 100)
        self._bare_sql.execute("CREATE TABLE bare (key text PRIMARY KEY, value text NOT NULL)")
        self._bare_sql.execute("INSERT INTO bare VALUES ('known', %s)", ["x" * 100])

    def of(self, name: str, times: int) -> dict[str, tuple[float, float]]:
        """Ours and the bare counterpart, in turn; names as in :attr:`pairs`."""
        return _measured(self.pairs[name], times)

    @property
    def pairs(self) -> dict[str, dict[str, Call]]:
        """What is measured against what."""
        return {
            "memory": {"hit": lambda: _hit(self._memory), "miss": lambda: _miss(self._memory)},
            "redis": {
                "hit": lambda: _hit(self._redis),
                "miss": lambda: _miss(self._redis),
                "bare": lambda: self._bare_redis.get("bare"),
            },
            "sql": {
                "hit": lambda: _hit(self._sql),
                "bare hit": self._read,
                "miss": lambda: _miss(self._sql),
                "bare miss": self._insert,
            },
        }

    def _read(self) -> object:
        return self._bare_sql.execute("SELECT value FROM bare WHERE key = %s", [KNOWN], prepare=True).fetchone()

    def _insert(self) -> object:
        return self._bare_sql.execute("INSERT INTO bare VALUES (%s, %s)", [_new(), "x" * 100], prepare=True)

    def close(self) -> None:
        """Give back connections."""
        self._redis.close()
        self._sql.close()
        self._bare_redis.close()
        self._bare_sql.close()


def _new() -> str:
    return f"key-{next(_numbers)}"


def _claim(store: IdempotencyStore, key: str) -> object:
    return store.claim(SCOPE, key, PARAMS, owner="bench", lease_seconds=60, ttl_seconds=3600)


def _hit(store: IdempotencyStore) -> None:
    if not isinstance(_claim(store, KNOWN), Done):
        raise RuntimeError("a finished key was not answered")


def _miss(store: IdempotencyStore) -> None:
    if not isinstance(_claim(store, _new()), Claimed):
        raise RuntimeError("a new key was not given")


def _measured(calls: dict[str, Call], times: int) -> dict[str, tuple[float, float]]:
    for call in calls.values():
        _repeat(call, 20)
    took: dict[str, list[float]] = {name: [] for name in calls}
    forth = tuple(calls.items())
    for number in range(times):
        for name, call in reversed(forth) if number % 2 else forth:
            took[name].append(_microseconds(call))
    return {name: (share_of(found, 0.5), share_of(found, 0.99)) for name, found in took.items()}


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()


def _microseconds(call: Call) -> float:
    began = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - began) / 1000


def share_of(values: Iterable[float], share: float) -> float:
    """The value that this share of all does not exceed."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
