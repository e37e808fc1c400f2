"""The tracker's names for retrying: they hold a policy and compile to stage options; the engine alone retries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Generic

from stageflow_durable.duration import LONGEST, seconds_of, shown
from stageflow_durable.errors import ConfigurationError, TransientError
from stageflow_durable.model.callables import shown as name_of
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import InputT_contra, Stage, StageKind


@dataclass(frozen=True, slots=True)
class RetryInterceptor:
    """A retry policy among an engine's interceptors, delays in milliseconds. It wraps nothing: the engine retries.

    Retried are ``retry_on``, what is transient by itself (timeouts, lost connections, 429, 5xx) and
    ``StageOutput.retry()``; errors that nothing is known about are not. Raises :class:`ConfigurationError` as
    :class:`RetryPolicy` does.
    """

    name: ClassVar[str] = "retry"
    priority: ClassVar[int] = 20

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


class RetryStage(Generic[InputT_contra]):
    """A stage object with a retry policy of its own: ``Pipeline.stage`` reads ``stage_options``.

    ``name``, ``kind`` and ``execute`` are the wrapped stage's, and so are the options that another adapter brought
    along. Raises :class:`ConfigurationError` when the stage has a retry policy already: exactly one governs; and for
    what is no stage object.
    """

    def __init__(self, stage: Stage[InputT_contra], policy: RetryPolicy) -> None:
        given: object = stage
        if not isinstance(given, Stage):
            said = "is no stage object (name, kind, execute); give a function retry= of Pipeline.stage"
            raise ConfigurationError(f"RetryStage: {name_of(given)} {said}")
        options: dict[str, object] = dict(getattr(stage, "stage_options", {}))
        if "retry" in options:
            raise ConfigurationError(f"RetryStage: stage {stage.name!r} has a retry policy already; keep one")
        self.name, self.kind, self.execute = stage.name, StageKind(stage.kind), stage.execute
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
