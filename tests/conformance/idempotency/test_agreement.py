"""The rules are written three times (``rules.py``, SQL, Lua): they give the same answers over any history."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import fakeredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stageflow_durable.errors import FenceLost, IdempotencyParamMismatch
from stageflow_durable.idempotency.memory import MemoryIdempotencyStore
from stageflow_durable.idempotency.redis import RedisIdempotencyStore
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.idempotency.store import Claimed, IdempotencyStore
from stageflow_durable.state.database import Database
from tests.conformance.idempotency.backends import SCOPE, Backend, Clock

EIGHTH = 0.125  # exact in seconds and in milliseconds, and no whole second while there are fewer than eight
Operation = tuple[str, int, int, int]
operations = st.lists(
    st.tuples(
        st.sampled_from(["claim", "renew", "complete", "release", "vouch", "wait"]),
        st.integers(0, 2),
        st.integers(1, 6),
        st.integers(1, 6),
    ),
    max_size=25,
).filter(lambda steps: sum(step[0] == "wait" for step in steps) < 8)


def told(store: IdempotencyStore, steps: list[Operation], clock: Clock) -> list[object]:
    """What a store answers to each step; an operation names the fence of the n-th last claim."""
    backend, fences, answers = Backend(store, clock.advance), [1, 1, 1], []
    for name, which, first, second in steps:
        answer = step(backend, name, fences[-1 - which], which, first, second)
        if isinstance(answer, Claimed):
            fences.append(answer.fence)
        answers.append(answer)
    return answers


def step(backend: Backend, name: str, fence: int, which: int, first: int, second: int) -> object:
    writes: dict[str, Callable[[], object]] = {
        "renew": lambda: backend.store.renew(SCOPE, "order-1", fence, lease_seconds=first),
        "complete": lambda: backend.store.complete(SCOPE, "order-1", fence, first, ttl_seconds=second),
        "release": lambda: backend.store.release(SCOPE, "order-1", fence),
        "vouch": lambda: backend.store.release(SCOPE, "order-1", fence, vouched=True),
        "claim": lambda: backend.claim(params={"n": which}, lease=first, ttl=second),
        # Never to the millisecond at which something ends: Redis lets a key live through it.
        "wait": lambda: backend.advance(first + EIGHTH),
    }
    try:
        return writes[name]()
    except (FenceLost, IdempotencyParamMismatch) as error:
        return str(error)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lite(clock: Clock) -> Iterator[SqlIdempotencyStore]:
    database = Database("sqlite://", clock=clock)
    store = SqlIdempotencyStore(database)
    store.create()
    yield store
    database.dispose()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations)
def test_memory_and_sql_and_redis_give_the_same_answers_over_any_history(
    lite: SqlIdempotencyStore, clock: Clock, steps: list[Operation]
) -> None:
    clock.now += 1_000_000  # every key of the example before has expired
    began = clock.now
    expected = told(MemoryIdempotencyStore(clock), steps, clock)
    clock.now = began
    lite.prune(10)
    assert told(lite, steps, clock) == expected
    clock.now = began
    with patch.object(time, "time", clock):  # by which fakeredis tells TIME
        assert told(RedisIdempotencyStore(fakeredis.FakeRedis(server=fakeredis.FakeServer())), steps, clock) == expected


def test_the_comparison_reaches_every_kind_of_answer(clock: Clock) -> None:
    steps: list[Operation] = [
        ("claim", 0, 2, 3),
        ("claim", 0, 2, 3),
        ("claim", 1, 2, 3),
        ("renew", 1, 1, 1),
        ("wait", 0, 2, 1),
        ("claim", 0, 2, 3),
        ("complete", 0, 1, 1),
        ("claim", 0, 1, 1),
    ]
    answers = told(MemoryIdempotencyStore(clock), steps, clock)
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Claimed", "InProgress", "str", "str", "NoneType", "Claimed", "NoneType", "Done"]
    assert "fence 1 " in str(answers[3])
