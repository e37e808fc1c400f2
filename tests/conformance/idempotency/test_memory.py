"""What only the store in memory has to see to itself."""

from __future__ import annotations

from stageflow_durable.idempotency.memory import SWEEP_EVERY, MemoryIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, InProgress
from tests.conformance.idempotency.backends import Backend, Clock


def test_given_keys_that_expire_then_memory_is_bounded_by_those_that_live() -> None:
    clock = Clock()
    store = MemoryIdempotencyStore(clock)
    backend = Backend(store, clock.advance)
    backend.claim("kept", lease=1_000_000)
    for number in range(5 * SWEEP_EVERY):
        assert isinstance(backend.claim(f"order-{number}", lease=1, ttl=1), Claimed)
        clock.advance(1)
    assert len(store) <= SWEEP_EVERY + 1
    assert isinstance(backend.claim("kept"), InProgress)
