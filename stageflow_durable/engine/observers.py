"""Telling how an attempt ended: to what its context was asked to call, and to the engine's observers.

They are told after the commit, or once it is known that there is none, and change nothing any more.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from contextvars import Context
from typing import Any

from stageflow_durable.engine import loop
from stageflow_durable.engine.body import Called, is_awaitable, name_of
from stageflow_durable.engine.interrupt import bounded
from stageflow_durable.engine.outcome import Again, Outcome, Over, as_output, text_of
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.engine.redaction import loggable
from stageflow_durable.masking import masking
from stageflow_durable.model.callables import shown
from stageflow_durable.model.context import AttemptEnd, CompensationContext, Observer
from stageflow_durable.model.output import OutputKind, StageOutput
from stageflow_durable.model.status import Cause
from stageflow_durable.store.protocol import Store

log = masking(logging.getLogger("stageflow.observers"))

SECONDS = 30.0
"""How long one observer may take. One that hangs would hold its worker: its lease is renewed, so nobody takes over. One
that goes on all the same is ended with its process, as a body is; the outcome is saved by then.
"""


def end_of(ctx: Any, called: Called, outcome: Outcome | None, *, committed: bool) -> AttemptEnd:
    """The end of an attempt. ``outcome``: what was saved of it, or would have been; None: it did not come so far."""
    return AttemptEnd(ctx, _result(called, outcome), called.error, committed)


def _result(called: Called, outcome: Outcome | None) -> StageOutput:
    if outcome is None:
        return StageOutput.fail(called.error or "its outcome was not saved")
    if isinstance(outcome, Again):
        return StageOutput.retry(outcome.error or outcome.failure.error, outcome.delay)
    if isinstance(outcome, Over):
        return StageOutput(_kind(outcome), error=outcome.error or outcome.failure.error)
    return as_output(called.value)


def _kind(outcome: Over) -> OutputKind:
    if outcome.cause is not Cause.FAILED:
        return OutputKind.CANCEL
    return OutputKind.REJECT if outcome.failure.vouched else OutputKind.FAIL


def call_observers(
    end: AttemptEnd, asked: Iterable[Observer], observers: Iterable[Observer], place: Context, store: Store
) -> None:
    """Call what the attempt asked for, the latest first, then the engine's observers, each in the attempt's context.

    What one raises is logged once, and goes into the history of a run that this process still had. Raises only what
    ends the process.
    """
    for observer in (*reversed([*asked]), *observers):
        try:
            with bounded(SECONDS):
                answer = place.run(observer, end)
            if is_awaitable(answer):
                loop.run(_giving(answer), place, SECONDS, name_of(end.ctx))
        except BaseException as error:
            if is_end_of_process(error):
                raise
            _note(end, observer, error, store)


def _giving(answer: Any) -> Callable[[Any], Any]:
    return lambda _coroutine: answer


def _note(end: AttemptEnd, observer: Observer, error: BaseException, store: Store) -> None:
    what, name, ctx = text_of(error)[:500], _name(observer), end.ctx
    undo = "undo of " if isinstance(ctx, CompensationContext) else ""
    said = "observer %s failed at %sstage %s of run %s: %s"
    log.error(said, name, undo, ctx.stage, ctx.run_id, what, exc_info=loggable(error))
    if not end.committed:
        return  # the run is somebody else's
    with contextlib.suppress(Exception):  # the outcome is saved: an observer changes nothing any more
        store.note(ctx.run_id, "observer.failed", {"stage": ctx.stage, "observer": name, "error": what})


def _name(observer: Observer) -> str:
    try:
        return shown(observer)[:200]
    except BaseException as error:  # a stranger's object, whose own code was asked
        if is_end_of_process(error):
            raise
        return type(observer).__name__
