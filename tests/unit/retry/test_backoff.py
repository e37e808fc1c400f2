"""Delays are exactly the documented formulas, and chance stays within their bounds."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.retry import Backoff, Draw, Jitter, RetryPolicy, backoff, delay

attempts = st.integers(1, 40) | st.integers(1, 10**12)
seeds = st.integers(0, 2**32)


@st.composite
def policies(draw: st.DrawFn, /, **fixed: Any) -> RetryPolicy:
    base = draw(st.floats(0, 1000))
    settings = {
        "base_delay": base,
        "max_delay": base + draw(st.floats(0, 10_000)),
        "backoff": draw(st.sampled_from(Backoff)),
        "jitter": draw(st.sampled_from(Jitter)),
    }
    return RetryPolicy(**{**settings, **fixed})


def lowest(low: float, _: float) -> float:
    return low


def highest(_: float, high: float) -> float:
    return high


def middle(low: float, high: float) -> float:
    return (low + high) / 2


def never(low: float, high: float) -> float:
    raise AssertionError(f"chance was asked for {low} … {high}")


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        ("exponential", [1.5, 3, 6, 12, 20, 20]),
        ("linear", [1.5, 3, 4.5, 6, 7.5, 9]),
        ("constant", [1.5, 1.5, 1.5, 1.5, 1.5, 1.5]),
    ],
)
def test_given_a_backoff_without_jitter_then_the_delays_are_the_formula(strategy: str, delays: list[float]) -> None:
    policy = RetryPolicy(base_delay=1.5, max_delay=20, backoff=strategy, jitter="none")

    assert [delay(policy, n, None, never) for n in range(1, 7)] == delays


@pytest.mark.parametrize(
    ("jitter", "draw", "expected"),
    [
        ("full", lowest, [0, 0, 0, 0]),
        ("full", highest, [1, 2, 4, 5]),
        ("equal", lowest, [0.5, 1, 2, 2.5]),
        ("equal", middle, [0.75, 1.5, 3, 3.75]),
        ("equal", highest, [1, 2, 4, 5]),
    ],
)
def test_given_a_jitter_then_chance_moves_between_its_bounds(jitter: str, draw: Draw, expected: list[float]) -> None:
    policy = RetryPolicy(base_delay=1, max_delay=5, jitter=jitter)

    assert [delay(policy, n, None, draw) for n in range(1, 5)] == expected


def test_given_decorrelated_jitter_then_each_delay_is_drawn_up_to_thrice_the_one_before() -> None:
    policy = RetryPolicy(base_delay=1, max_delay=20, jitter="decorrelated")
    asked: list[tuple[float, float]] = []

    def note(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    previous: float | None = None
    for n in range(1, 5):
        previous = delay(policy, n, previous, note)

    assert asked == [(1, 3), (1, 9), (1, 27), (1, 60)]
    assert previous == 20


@pytest.mark.parametrize(("previous", "bounds"), [(0.1, (1, 3)), (100.0, (1, 60)), (2.5, (1, 7.5))])
def test_given_a_previous_delay_of_another_policy_then_the_bounds_are_of_this_one(
    previous: float, bounds: tuple[float, float]
) -> None:
    policy = RetryPolicy(base_delay=1, max_delay=20, jitter="decorrelated")

    assert (delay(policy, 2, previous, lowest), delay(policy, 2, previous, highest)) == (bounds[0], min(20, bounds[1]))


@given(policies(), attempts, st.none() | st.floats(0, 10_000), seeds)
def test_given_any_policy_then_no_delay_leaves_zero_to_the_cap(
    policy: RetryPolicy, n: int, previous: float | None, seed: int
) -> None:
    assert 0 <= delay(policy, n, previous, random.Random(seed).uniform) <= policy.max_delay


@given(policies(jitter="full"), attempts, seeds)
def test_given_full_jitter_then_the_delay_is_at_most_the_backoff(policy: RetryPolicy, n: int, seed: int) -> None:
    assert 0 <= delay(policy, n, None, random.Random(seed).uniform) <= backoff(policy, n)


@given(policies(jitter="equal"), attempts, seeds)
def test_given_equal_jitter_then_the_delay_is_at_least_half_the_backoff(policy: RetryPolicy, n: int, seed: int) -> None:
    assert backoff(policy, n) / 2 <= delay(policy, n, None, random.Random(seed).uniform) <= backoff(policy, n)


@given(policies(jitter="decorrelated"), attempts, st.none() | st.floats(0, 10_000), seeds)
def test_given_decorrelated_jitter_then_the_delay_is_at_least_the_base(
    policy: RetryPolicy, n: int, previous: float | None, seed: int
) -> None:
    assert delay(policy, n, previous, random.Random(seed).uniform) >= policy.base_delay


@given(policies(jitter="none"), attempts)
def test_given_no_jitter_then_delays_never_shrink(policy: RetryPolicy, n: int) -> None:
    assert delay(policy, n, None, never) <= delay(policy, n + 1, None, never)


@given(policies(), attempts, seeds)
def test_given_the_same_seed_then_the_delay_is_the_same(policy: RetryPolicy, n: int, seed: int) -> None:
    assert delay(policy, n, None, random.Random(seed).uniform) == delay(policy, n, None, random.Random(seed).uniform)
