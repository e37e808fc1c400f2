"""After a failed attempt: again, and when; or not, and why."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.retry import Category, Decision, GiveUp, GiveUpReason, RetryAt, RetryPolicy, decide
from tests.unit.retry.test_backoff import highest, policies


def decided(policy: RetryPolicy, **changes: Any) -> Decision:
    facts: dict[str, Any] = {
        "n": 1, "previous_delay": None, "category": Category.TRANSIENT, "retry_after": None,
        "elapsed": 0.0, "draw": highest,
    }  # fmt: skip
    return decide(policy, **{**facts, **changes})


@pytest.mark.parametrize(
    ("category", "reason"),
    [
        (Category.BUG, GiveUpReason.BUG),
        (Category.PERMANENT, GiveUpReason.PERMANENT),
        (Category.POLICY, GiveUpReason.POLICY),
    ],
)
@pytest.mark.parametrize("n", [1, 3])
def test_given_an_error_that_no_retry_mends_then_it_gives_up_and_says_why(
    category: Category, reason: GiveUpReason, n: int
) -> None:
    decision = decided(RetryPolicy(), category=category, n=n)

    assert decision == GiveUp(reason)
    assert not GiveUp(reason).exhausted


def test_given_an_unknown_error_then_the_policy_says_whether_it_is_retried() -> None:
    assert decided(RetryPolicy(), category=Category.UNKNOWN) == RetryAt(1.0, 1.0)
    assert decided(RetryPolicy(retry_unknown=False), category=Category.UNKNOWN) == GiveUp(GiveUpReason.UNKNOWN)


@pytest.mark.parametrize(("max_attempts", "retries"), [(1, 0), (2, 1), (5, 4)])
def test_given_max_attempts_then_the_first_attempt_counts(max_attempts: int, retries: int) -> None:
    policy = RetryPolicy(max_attempts=max_attempts)

    decisions = [decided(policy, n=n) for n in range(1, max_attempts + 1)]

    assert [isinstance(decision, RetryAt) for decision in decisions] == [True] * retries + [False]
    assert decisions[-1] == GiveUp(GiveUpReason.ATTEMPTS)
    assert GiveUp(GiveUpReason.ATTEMPTS).exhausted


@pytest.mark.parametrize(("retry_after", "delay"), [(None, 2.0), (0.0, 2.0), (1.5, 2.0), (2.5, 2.5), (3600.0, 3600.0)])
def test_given_a_retry_after_then_it_is_a_lower_bound_even_beyond_the_cap(
    retry_after: float | None, delay: float
) -> None:
    assert decided(RetryPolicy(base_delay=2, max_delay=30), retry_after=retry_after) == RetryAt(delay, drawn=2.0)


@pytest.mark.parametrize(
    ("elapsed", "retry_after", "again"),
    [(0, None, True), (7.9, None, True), (8, None, False), (100, None, False), (0, 9.9, True), (0, 10, False)],
)
def test_given_retry_for_then_no_attempt_begins_at_or_after_it(
    elapsed: float, retry_after: float | None, again: bool
) -> None:
    decision = decided(RetryPolicy(base_delay=2, retry_for=10), elapsed=elapsed, retry_after=retry_after)

    assert isinstance(decision, RetryAt) is again
    assert again or decision == GiveUp(GiveUpReason.TIME)
    assert GiveUp(GiveUpReason.TIME).exhausted


def test_given_decorrelated_jitter_then_what_was_drawn_and_not_the_retry_after_is_carried_on() -> None:
    policy = RetryPolicy(jitter="decorrelated", max_attempts=9)

    first = decided(policy, retry_after=600.0)
    assert first == RetryAt(600.0, drawn=3.0)
    assert decided(policy, n=2, previous_delay=first.drawn) == RetryAt(9.0, drawn=9.0)


@given(
    policies(max_attempts=5),
    st.integers(1, 9),
    st.sampled_from(Category),
    st.none() | st.floats(0, 1e6),
    st.integers(0, 99),
)
def test_given_anything_then_retries_stay_within_attempts_and_bounds(
    policy: RetryPolicy, n: int, category: Category, retry_after: float | None, seed: int
) -> None:
    decision = decided(policy, n=n, category=category, retry_after=retry_after, draw=random.Random(seed).uniform)

    if isinstance(decision, RetryAt):
        assert n < 5
        assert category in (Category.TRANSIENT, Category.UNKNOWN)
        assert (retry_after or 0) <= decision.delay <= max(policy.max_delay, retry_after or 0)
        assert decision.drawn <= policy.max_delay
    else:
        assert n >= 5 or category not in (Category.TRANSIENT, Category.UNKNOWN)
