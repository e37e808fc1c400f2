"""The stores under test, each with a way to let time pass and a way to be reached from another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from stageflow_durable.codec import encode, fingerprint
from stageflow_durable.idempotency.keys import Scope
from stageflow_durable.idempotency.redis import RedisIdempotencyStore
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Answer, Claimed, IdempotencyStore
from stageflow_durable.state.database import Database

SCOPE = Scope("web", "charge")
LONG = 600.0
SHORT = 0.2


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class Backend:
    """A store; ``advance`` lets its clock pass, ``url`` leads another process to it (None: it lives in this process
    only).
    """

    store: IdempotencyStore
    advance: Callable[[float], object] = time.sleep
    url: str | None = None

    def claim(
        self,
        key: str = "order-1",
        params: object = None,
        *,
        scope: Scope = SCOPE,
        lease: float = LONG,
        ttl: float = LONG,
        owner: str = "worker-1",
    ) -> Answer:
        """Claim with the defaults of these tests."""
        return self.store.claim(
            scope,
            key,
            fingerprint(params),
            owner=owner,
            lease_seconds=lease,
            ttl_seconds=ttl,
            params_text=encode(params),
        )

    def fence(self, key: str = "order-1", params: object = None, *, lease: float = LONG, ttl: float = LONG) -> int:
        """Claim, and expect to get it."""
        answer = self.claim(key, params, lease=lease, ttl=ttl)
        assert isinstance(answer, Claimed), answer
        return answer.fence


BUSY_SECONDS = 20.0


def store_at(url: str) -> IdempotencyStore:
    """The shared store behind a URL. Hundreds of threads share its connections, on a machine that does other things."""
    return (
        RedisIdempotencyStore(url, timeout_seconds=BUSY_SECONDS)
        if url.startswith("redis")
        else SqlIdempotencyStore(Database(url))
    )
