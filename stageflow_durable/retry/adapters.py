"""The tracker's names for retrying: they hold a policy and compile to stage options; the engine alone retries."""

from __future__ import annotations

from dataclasses import dataclass

from stageflow_durable.duration import LONGEST, seconds_of, shown
from stageflow_durable.errors import ConfigurationError, TransientError
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import Stage


@dataclass(frozen=True, slots=True)
class RetryInterceptor:
    """A retry policy in the shape of an interceptor, delays in milliseconds.

    Retried are ``retry_on``, what is transient by itself (timeouts, lost connections, 429, 5xx) and
    ``StageOutput.retry()``; errors that nothing is known about are not. Raises :class:`ConfigurationError` as
    :class:`RetryPolicy` does.
    """

    max_attempts: int = 3
    base_delay_ms: float = 1000
    max_delay_ms: float = 30000
    backoff_strategy: str = "exponential"
    jitter_strategy: str = "full"
    retry_on: tuple[type[BaseException], ...] = (TransientError,)

    def __post_init__(self) -> None:
        _ = self.policy  # a wrong setting is refused here, not at the first failure

    @property
    def policy(self) -> RetryPolicy:
        """The same as a :class:`RetryPolicy`."""
        return RetryPolicy(
            max_attempts=self.max_attempts,
            base_delay=_seconds("base_delay_ms", self.base_delay_ms),
            max_delay=_seconds("max_delay_ms", self.max_delay_ms),
            backoff=self.backoff_strategy,
            jitter=self.jitter_strategy,
            retry_on=self.retry_on,
            retry_unknown=False,
        )


class RetryStage:
    """A stage object with a retry policy of its own: ``Pipeline.stage`` reads ``stage_options``.

    ``name``, ``kind`` and ``execute`` are the wrapped stage's, and so are the options that another adapter brought
    along. Raises :class:`ConfigurationError` when the stage has a retry policy already: exactly one governs.
    """

    def __init__(self, stage: Stage, policy: RetryPolicy) -> None:
        options: dict[str, object] = dict(getattr(stage, "stage_options", {}))
        if "retry" in options:
            raise ConfigurationError(f"RetryStage: stage {stage.name!r} has a retry policy already; keep one")
        self.name, self.kind, self.execute = stage.name, stage.kind, stage.execute
        self.retry = policy
        self.stage_options: dict[str, object] = {**options, "retry": policy}


def _seconds(field: str, milliseconds: object) -> float:
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        raise ConfigurationError(f"RetryInterceptor {field}: must be milliseconds, not {shown(milliseconds)}")
    try:
        return seconds_of(milliseconds, high=LONGEST * 1000) / 1000
    except ValueError:
        said = f"must be milliseconds, 0 to ten years, not {shown(milliseconds)}"
        raise ConfigurationError(f"RetryInterceptor {field}: {said}") from None
