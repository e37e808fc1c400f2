"""A duration that nothing can hold is refused where it is given, wherever a duration can be given."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy
from stageflow_durable.duration import LONGEST, seconds_of, shown
from stageflow_durable.errors import StageflowError
from stageflow_durable.idempotency import IdempotencyInterceptor, MemoryIdempotencyStore
from stageflow_durable.retry import RetryInterceptor
from stageflow_durable.settings import Settings
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests

IMPOSSIBLE = [
    math.inf,
    -math.inf,
    math.nan,
    timedelta.max,
    timedelta.min,
    1e10,
    10**400,
    -(10**5000),
    -1,
    True,
    Decimal(1),
    "a week",
    object(),
]
NOT_POSITIVE: list[Any] = [0, 0.0, timedelta(0), -0.0]


def _engine() -> InProcessEngine:
    with engine_for_tests([Pipeline[Any, Any]("p").stage("s", lambda _ctx: None)]) as engine:
        return engine


TAKES: dict[str, Callable[[Any], object]] = {
    "timeout of a stage": lambda it: Pipeline[Any, Any]("p").stage("s", print, timeout=it).plan,
    "key_ttl of a stage": lambda it: Pipeline[Any, Any]("p").stage("s", print, key_ttl=it).plan,
    "retry_for": lambda it: RetryPolicy(retry_for=it),
    "ttl of an interceptor": lambda it: IdempotencyInterceptor(MemoryIdempotencyStore(), ttl_seconds=it),
    "lease of an interceptor": lambda it: IdempotencyInterceptor(MemoryIdempotencyStore(), lease_seconds=it),
    "lease_seconds": lambda it: Settings(lease_seconds=it),
    "sweep_seconds": lambda it: Settings(sweep_seconds=it),
    "visibility_timeout": lambda it: Settings(visibility_timeout=it),
    "deadline": lambda it: _engine().enqueue("p", {}, deadline=it),
    "older_than": lambda it: _engine().prune(it),
}
TAKES_ZERO: dict[str, Callable[[Any], object]] = {
    "base_delay": lambda it: RetryPolicy(base_delay=it, max_delay=LONGEST),
    "max_delay": lambda it: RetryPolicy(base_delay=0, max_delay=it),
    "base_delay_ms": lambda it: RetryInterceptor(base_delay_ms=it, max_delay_ms=LONGEST * 1000),
    "max_delay_ms": lambda it: RetryInterceptor(base_delay_ms=0, max_delay_ms=it),
    "wait of an interceptor": lambda it: IdempotencyInterceptor(MemoryIdempotencyStore(), wait_seconds=it),
    "in_place_seconds": lambda it: Settings(in_place_seconds=it),
    "short_delay_seconds": lambda it: Settings(short_delay_seconds=it),
    "clock of tests": lambda it: FakeClock().advance(it),
}
MILLISECONDS = ("base_delay_ms", "max_delay_ms")


@pytest.mark.parametrize("wrong", IMPOSSIBLE, ids=lambda it: shown(it)[:20])
@pytest.mark.parametrize("where", [*TAKES, *TAKES_ZERO])
def test_given_a_duration_that_cannot_hold_then_it_is_refused_there(where: str, wrong: Any) -> None:
    given = 1e14 if where in MILLISECONDS and wrong == 1e10 else wrong  # ten years are 3.2e11 ms
    with pytest.raises((StageflowError, ValueError)) as refused:
        (TAKES | TAKES_ZERO)[where](given)
    assert "OverflowError" not in repr(refused.value)


@pytest.mark.parametrize("wrong", NOT_POSITIVE, ids=str)
@pytest.mark.parametrize("where", TAKES)
def test_given_no_time_at_all_where_some_is_needed_then_it_is_refused(where: str, wrong: Any) -> None:
    with pytest.raises(StageflowError):
        TAKES[where](wrong)


@pytest.mark.parametrize("seconds", [1e-9, 0.0009, timedelta(microseconds=1)])
def test_a_timeout_shorter_than_a_timer_can_tell_is_refused(seconds: Any) -> None:
    with pytest.raises(StageflowError, match="at least 1 ms"):
        _ = Pipeline[Any, Any]("p").stage("s", print, timeout=seconds).plan


@pytest.mark.parametrize("given", [0.001, 1, 1.5, timedelta(days=3650), LONGEST])
def test_what_can_hold_is_taken(given: Any) -> None:
    assert Pipeline[Any, Any]("p").stage("s", print, timeout=given).plan is not None
    assert seconds_of(given) > 0


@pytest.mark.parametrize("timeout", [math.inf, math.nan, timedelta.max, "1", True])
def test_a_result_is_waited_for_a_time_that_can_pass(timeout: Any) -> None:
    with engine_for_tests([Pipeline[Any, Any]("p").stage("s", lambda _ctx: None)]) as engine:
        handle = engine.enqueue("p", {})
        with pytest.raises(StageflowError, match="is no number of seconds up to ten years, or None"):
            handle.result(timeout)
        assert handle.result(timedelta(seconds=5)) == {"s": None}
