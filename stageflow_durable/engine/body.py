"""Calling what the application wrote: stage bodies and undos, ``def`` and ``async def``, with interceptors around
them.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stageflow_durable.engine.memory import Memory
from stageflow_durable.engine.services import Services, validated
from stageflow_durable.engine.timeout import StageTimeout, bounded
from stageflow_durable.errors import StageflowError
from stageflow_durable.model.context import CompensationContext, StageContext
from stageflow_durable.model.keys import stage_key, undo_key
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import Runner
from stageflow_durable.model.work import Work
from stageflow_durable.state.messages import is_sql, message_of
from stageflow_durable.state.store import Store
from stageflow_durable.state.views import moment

log = logging.getLogger("stageflow.body")
_loops = threading.local()

ERRORS = (Exception, StageTimeout, asyncio.CancelledError)
"""What a body's end by an exception looks like: nothing of ours cancels its coroutine, so a cancellation is the
body's.
"""


@dataclass(frozen=True, slots=True)
class Called:
    """How a body ended: its value, or its error; ``called`` is False when it never began: an interceptor answered or
    failed.
    """

    value: Any = None
    error: BaseException | None = None
    called: bool = True


def stage_context(work: Work, pipeline: Pipeline[Any, Any], memory: Memory, services: Services) -> StageContext[Any]:
    """The context of a stage. Raises InvalidInput when the stored input does not fit the pipeline's type any more."""
    snapshot = memory.snapshot(work)
    given = (
        snapshot.input
        if pipeline.input_type is None
        else validated(snapshot.input, pipeline.input_type, f"input of {pipeline.name}")
    )
    return StageContext(
        work.run.id,
        work.run.pipeline,
        work.stage,
        work.tries + 1,
        given,
        snapshot,
        work.run.client_id,
        stage_key(work.run.id, work.stage),
        memory.metadata(),
        moment(work.run.deadline),
        services,
    )


def undo_context(work: Work, pipeline: Pipeline[Any, Any], memory: Memory, outcome: Any) -> CompensationContext[Any]:
    """The context of an undo."""
    memory.load(work)
    snapshot = memory.snapshot(work)
    given = (
        snapshot.input
        if pipeline.input_type is None
        else validated(snapshot.input, pipeline.input_type, f"input of {pipeline.name}")
    )
    return CompensationContext(
        run_id=work.run.id,
        pipeline=work.run.pipeline,
        stage=work.stage,
        input=given,
        outputs=snapshot.outputs,
        output=memory.output(work.stage),
        outcome=outcome,
        action_key=stage_key(work.run.id, work.stage),
        idempotency_key=undo_key(work.run.id, work.stage),
        reason=work.run.error or str(work.run.cause),
        attempt=work.tries + 1,
        client_id=work.run.client_id,
        metadata=memory.metadata(),
    )


def is_async(runner: Runner) -> bool:
    """Whether a runner is ``async def``, or an object whose call is."""
    try:
        return _known_async(runner)
    except TypeError:  # an object that cannot be a key of the cache
        return _known_async.__wrapped__(runner)


@lru_cache(maxsize=4096)
def _known_async(runner: Runner) -> bool:
    return inspect.iscoroutinefunction(runner) or inspect.iscoroutinefunction(type(runner).__call__)


def call(runner: Runner, ctx: Any, timeout: float | None) -> Any:
    """Call it and wait for its end, bounded by ``timeout`` seconds."""
    # A coroutine is stopped by its loop; the alarm, a little later, is for one that blocks the loop.
    with bounded(timeout, late=1.0 if is_async(runner) else 0.0):
        answer = runner(ctx)
        return _awaited(answer, timeout) if inspect.isawaitable(answer) else answer


def _awaited(awaitable: Any, timeout: float | None) -> Any:
    try:
        return _runner().run(_limited(awaitable, timeout))
    except StageTimeout:
        # A coroutine that still cleans up must not wake again in the loop of the next body. Closing waits for it; what
        # does not end is ended with its process, whose bound is still armed.
        runner, _loops.runner = _loops.runner, None
        runner.close()
        raise


async def _limited(awaitable: Any, timeout: float | None) -> Any:
    limit = asyncio.timeout(timeout)
    try:
        async with limit:
            return await awaitable
    except TimeoutError:
        if limit.expired():
            raise StageTimeout(f"it took longer than its timeout of {timeout:g} s") from None
        raise


def _runner() -> asyncio.Runner:
    """The one seam between the synchronous engine and ``async def`` bodies: one loop a thread, kept between stages."""
    runner: asyncio.Runner | None = getattr(_loops, "runner", None)
    if runner is None:
        runner = _loops.runner = asyncio.Runner()
    return runner


def run_stage(
    runner: Runner, ctx: StageContext[Any], services: Services, interceptors: Sequence[Any], timeout: float | None
) -> Called:
    """Interceptors' ``before``, then the body; cleanups run however it ended."""
    try:
        for interceptor in interceptors:
            output = interceptor.before(ctx)
            if output is not None:
                return Called(output, called=False)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is the stage's error and gets decided upon
        return Called(error=error, called=False)
    try:
        with closing(services):
            return Called(call(runner, ctx, timeout))
    except ERRORS as error:
        return Called(error=error)


def observe(interceptors: Sequence[Any], ctx: StageContext[Any], called: Called, output: Any, store: Store) -> None:
    """Interceptors' ``after`` and ``on_error``, the innermost first, once the outcome is saved; their errors go into
    the history.
    """
    for interceptor in reversed(interceptors):
        try:
            if called.error is None:
                interceptor.after(ctx, output)
            else:
                interceptor.on_error(ctx, called.error)
        except Exception as error:
            what = f"{type(error).__name__}: {message_of(error)}"[:500]
            said = "interceptor %s failed at stage %s of run %s: %s"
            trace = None if is_sql(error) else error
            log.exception(said, interceptor.name, ctx.stage, ctx.run_id, what, exc_info=trace)
            with contextlib.suppress(StageflowError):  # the outcome is saved: an observer changes nothing any more
                found = {"stage": ctx.stage, "interceptor": interceptor.name, "error": what}
                store.note(ctx.run_id, "interceptor.failed", found)
