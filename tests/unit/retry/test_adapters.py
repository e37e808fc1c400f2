"""``RetryInterceptor`` and ``RetryStage`` hold a policy; the engine alone retries."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.errors import ConfigurationError, TransientError
from stageflow_durable.model.stage import Stage, StageKind
from stageflow_durable.retry import Category, RetryInterceptor, RetryPolicy, RetryStage, classify


class Charge:
    name = "charge"
    kind = StageKind.WORK

    def execute(self, ctx: Any) -> Any:
        return {"charged": ctx}


def test_given_a_retry_interceptor_then_its_policy_is_in_seconds() -> None:
    interceptor = RetryInterceptor(
        max_attempts=5, base_delay_ms=250, max_delay_ms=4000, backoff_strategy="linear", jitter_strategy="none"
    )

    assert interceptor.policy == RetryPolicy(
        max_attempts=5, base_delay=0.25, max_delay=4, backoff="linear", jitter="none",
        retry_on=TransientError, retry_unknown=False,
    )  # fmt: skip


def test_the_order_of_its_parameters_is_the_trackers() -> None:
    interceptor = RetryInterceptor(5, 250, 4000, "linear", "none", (KeyError,))

    assert interceptor.policy == RetryPolicy(
        max_attempts=5, base_delay=0.25, max_delay=4, backoff="linear", jitter="none",
        retry_on=KeyError, retry_unknown=False,
    )  # fmt: skip
    assert (interceptor.name, interceptor.priority) == ("retry", 20)


def test_given_the_defaults_then_known_transients_are_retried_and_unknown_errors_not() -> None:
    policy = RetryInterceptor().policy

    assert (policy.max_attempts, policy.base_delay, policy.max_delay) == (3, 1.0, 30.0)
    assert (policy.backoff, policy.jitter, policy.retry_unknown) == ("exponential", "full", False)
    assert classify(TransientError(), policy) is Category.TRANSIENT
    assert classify(TimeoutError(), policy) is Category.TRANSIENT


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"max_attempts": 0}, "max_attempts"),
        ({"base_delay_ms": "1000"}, "RetryInterceptor base_delay_ms"),
        ({"max_delay_ms": True}, "RetryInterceptor max_delay_ms"),
        ({"base_delay_ms": 60_000}, "base_delay"),
        ({"jitter_strategy": "some"}, "jitter"),
    ],
)
def test_given_a_wrong_setting_then_it_is_refused_at_once(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        RetryInterceptor(**settings)


def test_given_a_retry_stage_then_it_is_the_stage_with_a_policy() -> None:
    policy = RetryPolicy(max_attempts=7)

    stage = RetryStage(Charge(), policy)

    assert isinstance(stage, Stage)
    assert (stage.name, stage.kind, stage.retry) == ("charge", StageKind.WORK, policy)
    assert stage.stage_options == {"retry": policy}
    ctx: Any = 1
    assert stage.execute(ctx) == {"charged": 1}


def test_given_another_adapter_inside_then_its_options_are_kept() -> None:
    charge = Charge()
    charge.stage_options = {"compensate": print}  # type: ignore[attr-defined]  # as another adapter has it

    assert set(RetryStage(charge, RetryPolicy()).stage_options) == {"compensate", "retry"}


def test_given_a_stage_that_has_a_policy_then_a_second_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="stage 'charge' has a retry policy already"):
        RetryStage(RetryStage(Charge(), RetryPolicy()), RetryPolicy())
