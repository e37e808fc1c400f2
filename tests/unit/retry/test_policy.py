"""A retry policy is checked when it is written, not at the first failure."""

from __future__ import annotations

import copy
import pickle
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.policy import Backoff, Jitter, RetryPolicy


def test_given_nothing_then_the_defaults_are_three_attempts_doubling_from_a_second() -> None:
    policy = RetryPolicy()

    assert (policy.max_attempts, policy.base_delay, policy.max_delay) == (3, 1.0, 30.0)
    assert (policy.backoff, policy.jitter, policy.retry_for) == ("exponential", "full", None)
    assert (policy.retry_on, policy.give_up_on, policy.category_of) == ((), (), None)
    assert (policy.retry_on_fail, policy.retry_unknown) == (False, True)


def test_given_durations_of_any_kind_then_the_fields_are_float_seconds() -> None:
    policy = RetryPolicy(base_delay=timedelta(milliseconds=250), max_delay=2, retry_for=timedelta(minutes=1))

    assert [policy.base_delay, policy.max_delay, policy.retry_for] == [0.25, 2.0, 60.0]
    assert {type(policy.base_delay), type(policy.max_delay), type(policy.retry_for)} == {float}


def test_given_names_then_the_strategies_are_enums() -> None:
    policy = RetryPolicy(backoff="linear", jitter="decorrelated")

    assert policy.backoff is Backoff.LINEAR
    assert policy.jitter is Jitter.DECORRELATED


def test_given_one_exception_type_then_it_is_a_list_of_one() -> None:
    assert RetryPolicy(retry_on=KeyError, give_up_on=(ValueError, OSError)).retry_on == (KeyError,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_attempts", 0),
        ("max_attempts", True),
        ("max_attempts", 2.0),
        ("base_delay", -1),
        ("base_delay", True),
        ("base_delay", "1"),
        ("base_delay", float("nan")),
        ("base_delay", 31),
        ("max_delay", float("inf")),
        ("max_delay", timedelta(days=4000)),
        ("backoff", "quadratic"),
        ("backoff", None),
        ("jitter", "some"),
        ("retry_for", 0),
        ("retry_for", timedelta(seconds=-1)),
        ("retry_on", "KeyError"),
        ("retry_on", (KeyError, int)),
        ("give_up_on", (KeyError(),)),
        ("retry_on_fail", 1),
        ("retry_unknown", None),
        ("category_of", "transient"),
    ],
)
def test_given_a_wrong_setting_then_the_error_names_the_field(field: str, value: Any) -> None:
    settings: dict[str, Any] = {field: value}
    with pytest.raises(ConfigurationError, match=rf"^RetryPolicy {field}: "):
        RetryPolicy(**settings)


def test_given_a_base_above_the_cap_then_it_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match=r"base_delay: 5\.0 s is above max_delay, 1\.0 s"):
        RetryPolicy(base_delay=5, max_delay=1)


def test_given_a_type_on_both_lists_then_it_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="retry_on: KeyError stands in give_up_on too"):
        RetryPolicy(retry_on=(KeyError, OSError), give_up_on=KeyError)


def test_given_several_mistakes_then_all_are_told_at_once() -> None:
    wrong: dict[str, Any] = {"max_attempts": 0, "base_delay": "1", "jitter": "some", "retry_on": 7, "retry_for": 0}
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**wrong)
    told = str(caught.value).removeprefix("RetryPolicy ").split("; ")
    assert [line.partition(":")[0] for line in told if ":" in line] == [
        "max_attempts", "base_delay", "jitter", "retry_on", "retry_for"]  # fmt: skip


def test_given_a_policy_then_it_is_an_immutable_value() -> None:
    policy = RetryPolicy(max_attempts=5)

    with pytest.raises(FrozenInstanceError):
        policy.max_attempts = 6  # type: ignore[misc]  # the point of the test
    assert replace(policy, max_attempts=6) == RetryPolicy(max_attempts=6)
    assert pickle.loads(pickle.dumps(policy)) == copy.deepcopy(policy) == policy
    assert hash(policy) == hash(RetryPolicy(max_attempts=5))
