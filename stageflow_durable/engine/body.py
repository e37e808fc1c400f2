"""Calling the application's code: stage bodies and undos, ``def`` and ``async def``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from contextvars import Context
from functools import lru_cache
from typing import Any, NamedTuple

from stageflow_durable.clock import as_optional_moment
from stageflow_durable.engine import loop
from stageflow_durable.engine.interrupt import bounded
from stageflow_durable.engine.outcome import text_of
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.engine.services import Services
from stageflow_durable.masking import masking
from stageflow_durable.model.context import CompensationContext, StageContext
from stageflow_durable.model.keys import stage_key, undo_key
from stageflow_durable.model.stage import Runner
from stageflow_durable.model.work import Work

log = masking(logging.getLogger("stageflow.body"))


class Called(NamedTuple):
    """How a call ended: with a value, or with an error. ``called``: whether the body was called at all; not if an
    interceptor answered or failed, or the timer could not be set. ``raised``: the body itself raised, even if an
    interceptor then returned something else.
    """

    value: Any = None
    error: BaseException | None = None
    called: bool = True
    raised: bool = False


def stage_context(work: Work, saved_outputs: RunOutputs, services: Services) -> StageContext[Any]:
    """The context of a stage. Raises InvalidInput if the stored input does not match the pipeline's type any more."""
    snapshot = saved_outputs.snapshot(work)
    services.saved, services.result_type = saved_outputs.saved(), saved_outputs.result_type(work)
    return StageContext(
        work.run.id,
        work.run.pipeline,
        work.stage,
        work.tries + 1,
        saved_outputs.given(),
        snapshot,
        work.run.client_id,
        stage_key(work.run.id, work.stage, work.item),
        saved_outputs.metadata(),
        as_optional_moment(work.run.deadline),
        services,
    )


def undo_context(work: Work, saved_outputs: RunOutputs, outcome: Any) -> CompensationContext[Any]:
    """The context of an undo."""
    saved_outputs.load(work)
    snapshot = saved_outputs.snapshot(work)
    return CompensationContext(
        run_id=work.run.id,
        pipeline=work.run.pipeline,
        stage=work.stage,
        input=saved_outputs.given(),
        outputs=snapshot.outputs,
        output=saved_outputs.output_of(work),
        outcome=outcome,
        action_key=stage_key(work.run.id, work.stage, work.item),
        idempotency_key=undo_key(work.run.id, work.stage, work.item),
        reason=work.run.error or str(work.run.cause),
        attempt=work.tries + 1,
        client_id=work.run.client_id,
        metadata=saved_outputs.metadata(),
    )


def is_async(runner: Runner) -> bool:
    """Whether a runner is ``async def``, or an object whose call is."""
    try:
        return _known_async(runner)
    except Exception:  # noqa: BLE001  # it is not hashable, or its hash fails
        return _known_async.__wrapped__(runner)


@lru_cache(maxsize=4096)
def _known_async(runner: Runner) -> bool:
    return inspect.iscoroutinefunction(runner) or inspect.iscoroutinefunction(type(runner).__call__)


def call(runner: Runner, ctx: Any, timeout: float | None, context: Context) -> Called:
    """Call ``runner`` in ``context`` and wait at most ``timeout`` seconds. Raises only what ends the process."""
    begun = False

    def start(_coroutine: Any = None) -> Any:
        nonlocal begun
        begun = True
        return runner(ctx)

    try:
        return Called(_ended(start, is_async(runner), ctx, timeout, context))
    except BaseException as error:
        if is_end_of_process(error):
            raise
        return Called(error=error, called=begun)


def _ended(start: Callable[..., Any], in_loop: bool, ctx: Any, timeout: float | None, context: Context) -> Any:
    if in_loop:
        return loop.run(start, context, timeout, name_of(ctx))
    with bounded(timeout):
        answer = context.run(start)
    return loop.run(lambda _coroutine: answer, context, timeout, name_of(ctx)) if is_awaitable(answer) else answer


def is_awaitable(answer: object) -> bool:
    """Whether what a function returned has to be awaited."""
    try:
        return inspect.isawaitable(answer)
    except Exception:  # noqa: BLE001  # saving the value will report what is wrong with it
        return False


def name_of(ctx: Any) -> str:
    """The run and the stage of a context, for log lines."""
    undo = "undo of " if isinstance(ctx, CompensationContext) else ""
    return f"run {ctx.run_id}: {undo}stage {ctx.stage}"


def run_stage(
    call: Callable[[Runner, Any, float | None, Context], Called],
    runner: Runner,
    ctx: StageContext[Any],
    services: Services,
    timeout: float | None,
) -> Called:
    """Call the body by ``call`` (:func:`call`, or :meth:`Chain.call` with interceptors), then run its cleanups. Raises
    only what ends the process.
    """
    return _cleaned_up(call(runner, ctx, timeout, services.context), ctx, services)


def _cleaned_up(called: Called, ctx: StageContext[Any], services: Services) -> Called:
    try:
        services.context.run(services.close)
    except BaseException as error:
        if is_end_of_process(error):
            raise
        if called.error is None:
            return Called(error=error)
        said = "run %s: a cleanup of stage %s failed as well: %s"
        log.warning(said, ctx.run_id, ctx.stage, text_of(error), exc_info=loggable(error))
    return called
