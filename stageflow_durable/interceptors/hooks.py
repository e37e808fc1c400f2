"""The tracker's interceptor, ``before``, ``after`` and ``on_error``, as an adapter on ``around``."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from stageflow_durable.interceptors.protocol import CallNext, Interceptor
from stageflow_durable.model.context import AttemptEnd, Observer
from stageflow_durable.model.output import OutputKind, StageOutput


class ErrorAction(StrEnum):
    """What becomes of an error that a stage raised."""

    FAIL = "fail"
    """It goes on to the interceptors further out; if none of them decides, the stage's retry policy judges it."""
    RETRY = "retry"
    """Another attempt, whatever kind of error it is; delay and number of attempts are the retry policy's."""
    SKIP = "skip"
    """The run goes on without the stage's output. The stage may have acted: what it did is undone as unknown if the run
    turns back later.
    """


@dataclass(frozen=True, slots=True)
class InterceptorResult:
    """An answer of ``before``. With ``stage_ran=False`` the stage is not called: ``error`` fails it, without one
    ``result`` is its output (a StageOutput is taken as it is).
    """

    stage_ran: bool = True
    result: Any = None
    error: str | None = None

    def __post_init__(self) -> None:
        if self.stage_ran and (self.result is not None or self.error is not None):
            raise ValueError("InterceptorResult: result and error take the stage's place; say stage_ran=False")

    @property
    def output(self) -> StageOutput | None:
        """What takes the body's place; None: the body runs."""
        if self.stage_ran:
            return None
        if self.error is not None:
            return StageOutput.fail(self.error)
        return self.result if isinstance(self.result, StageOutput) else StageOutput(OutputKind.OK, value=self.result)


class BaseInterceptor(Interceptor):
    """Hooks before and after a stage. Each call is paired: ``after`` and ``on_error`` are called for an attempt whose
    ``before`` has returned, and for no other.
    """

    name: str = "base_interceptor"

    @abstractmethod
    async def before(self, stage_name: str, ctx: Any) -> InterceptorResult | None:
        """Called before the body with its StageContext. None: the body runs. What it raises is the stage's error."""

    @abstractmethod
    async def after(self, stage_name: str, result: StageOutput, ctx: Any) -> None:
        """Called after the attempt with what follows from it, once that is committed; not where nothing was. What it
        raises is logged and changes nothing.
        """

    async def on_error(self, stage_name: str, error: Exception, ctx: Any) -> ErrorAction:
        """Called when the body, or an interceptor further in, raised; decides what becomes of the error. What it
        raises itself takes the error's place. Not called for what is no Exception, such as the stage's timeout.
        """
        return ErrorAction.FAIL

    async def around(self, ctx: Any, call_next: CallNext) -> StageOutput:
        """The hooks around the body."""
        answer = _answered(await self.before(ctx.stage, ctx), self.name)
        ctx.on_end(self._told_by(ctx))
        if answer is not None:
            return answer
        try:
            output: StageOutput = await call_next(ctx)
        except Exception as error:
            decided = _decided(await self.on_error(ctx.stage, error, ctx), error, self.name)
            if decided is None:
                raise
            return decided
        return output

    def _told_by(self, ctx: Any) -> Observer:
        async def after(end: AttemptEnd) -> None:
            if end.committed:
                await self.after(ctx.stage, end.result, ctx)

        after.__name__ = f"{self.name}.after"  # for the log, should it fail
        return after


def _answered(answer: Any, name: str) -> StageOutput | None:
    if answer is None:
        return None
    if not isinstance(answer, InterceptorResult):
        raise TypeError(f"interceptor {name}: before() returned {type(answer).__name__}, not an InterceptorResult")
    return answer.output


def _decided(action: Any, error: Exception, name: str) -> StageOutput | None:
    """What ``on_error`` made of an error; None: nothing."""
    if action == ErrorAction.FAIL:
        return None
    if action == ErrorAction.RETRY:
        return StageOutput.retry(error)
    if action == ErrorAction.SKIP:
        return StageOutput(OutputKind.SKIP, error=error)
    raise TypeError(f"interceptor {name}: on_error() returned {type(action).__name__}, not an ErrorAction") from error
