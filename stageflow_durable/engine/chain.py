"""Calling a body inside its interceptors: each interceptor calls the next, and the last one calls the body.

``def`` and ``async def`` can be mixed in any order. A ``def`` runs in the thread that carries the run, an ``async def``
in the event loop. Neighbours of one kind call each other directly. Where the kind changes, the caller waits for the
other side, which runs in a copy of the context; variables that are set there are copied back afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, Self

from stageflow_durable.engine import loop
from stageflow_durable.engine.body import Called, is_async, is_awaitable, name_of
from stageflow_durable.engine.interrupt import StageTimeout, bounded
from stageflow_durable.engine.leftovers import inherit
from stageflow_durable.engine.loop import Coroutine
from stageflow_durable.engine.outcome import as_output
from stageflow_durable.engine.process_end import is_end_of_process
from stageflow_durable.errors import NotAllowedInStage
from stageflow_durable.model.output import StageOutput
from stageflow_durable.model.stage import Runner
from stageflow_durable.retry.look import is_a
from stageflow_durable.retry.look import name_of as name_of_type

_NO_TIME = 1e-6
"""Seconds that are left of a timeout that has passed: it fires at once."""


class Chain:
    """The interceptors of an engine, outermost first."""

    def __init__(self, interceptors: Sequence[Any]) -> None:
        self._links = [(one, is_async(one.around)) for one in interceptors]

    def call(self, runner: Runner, ctx: Any, timeout: float | None, context: Context) -> Called:
        """Call ``runner`` inside them, in ``context``; ``timeout`` seconds bound all of them together. Raises only what
        ends the process.
        """
        attempt = _Attempt(self._links, runner, timeout, name_of(ctx))
        try:
            output = attempt.run(ctx, context)
            if attempt.late is not None:
                raise attempt.late  # an interceptor swallowed the timeout: it counts all the same
        except BaseException as error:
            if is_end_of_process(error):
                raise
            return Called(error=error, called=attempt.called, raised=attempt.raised)
        return Called(output, called=attempt.called, raised=attempt.raised)


class _Attempt:
    """One attempt. ``place``: an index, from 0 for the outermost interceptor to the body, which is last."""

    def __init__(self, links: Sequence[tuple[Any, bool]], runner: Runner, timeout: float | None, what: str) -> None:
        self.called = self.raised = False
        self.late: StageTimeout | None = None
        self._links = links
        self._runner = runner
        self._kinds = [*(in_loop for _one, in_loop in links), is_async(runner)]
        self._timeout = timeout
        self._until = None if timeout is None else time.monotonic() + timeout
        self._what = what

    def run(self, ctx: Any, context: Context) -> StageOutput:
        """Call the outermost interceptor."""
        if self._kinds[0]:
            output: StageOutput = self._in_loop(lambda coroutine: self._await(0, ctx, coroutine), context)
            return output
        with bounded(self._timeout):
            return context.run(self._call, 0, ctx)

    def _left(self) -> float | None:
        return None if self._until is None else max(_NO_TIME, self._until - time.monotonic())

    def _in_loop(self, start: Callable[[Coroutine], Any], context: Context) -> Any:
        return loop.run(start, context, self._left(), self._what, of=self._timeout)

    def _apart(self, start: Callable[[Coroutine], Any]) -> Any:
        """Run a coroutine in the loop and wait for it; called from a ``def``."""
        context = copy_context()  # the current one cannot be entered twice
        try:
            return self._in_loop(start, context)
        except StageTimeout as error:
            self.late = error
            raise
        finally:
            inherit(context)

    # --- from a thread ------------------------------------------------------------------------------------------------

    def _call(self, place: int, ctx: Any) -> StageOutput:
        if self._kinds[place]:
            output: StageOutput = self._apart(lambda coroutine: self._await(place, ctx, coroutine))
            return output
        if place == len(self._links):
            self.called = True
            try:
                return as_output(self._ended(self._runner(ctx)))
            except BaseException:
                self.raised = True
                raise
        one, _kind = self._links[place]
        with _Next(one, ctx, lambda given: self._call(place + 1, given)) as call_next:
            return _checked(one, self._ended(one.around(ctx, call_next), call_next.goes_on_here))

    def _ended(self, answer: Any, goes_on_here: Callable[[], None] | None = None) -> Any:
        """The result of a ``def``; if it returned an awaitable, the result of awaiting it. The thread that awaits it
        calls ``goes_on_here``.
        """
        if not is_awaitable(answer):
            return answer

        def start(_coroutine: Coroutine) -> Any:
            if goes_on_here is not None:
                goes_on_here()
            return answer

        return self._apart(start)

    # --- from within the loop -----------------------------------------------------------------------------------------

    async def _await(self, place: int, ctx: Any, coroutine: Coroutine) -> StageOutput:
        if not self._kinds[place]:
            output: StageOutput = await coroutine.outside(lambda: self._bounded(place, ctx))
            return output
        if place == len(self._links):
            self.called = True
            try:
                return as_output(await self._runner(ctx))
            except BaseException:
                self.raised = True
                raise
        one, _kind = self._links[place]
        with _Next(one, ctx, lambda given: self._await(place + 1, given, coroutine)) as call_next:
            return _checked(one, await one.around(ctx, call_next))

    def _bounded(self, place: int, ctx: Any) -> StageOutput:
        try:
            with bounded(self._left(), of=self._timeout):
                return self._call(place, ctx)
        except StageTimeout as error:
            self.late = error
            raise


class _Next:
    """``call_next`` of one interceptor. It can be called once, in the interceptor's own thread, and not after it has
    returned.
    """

    def __init__(self, one: Any, ctx: Any, call: Callable[[Any], Any]) -> None:
        self._said = ctx.run_id, f"call_next(ctx) in interceptor {one.name}"
        self._call = call
        self._thread = threading.get_ident()
        self._why: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_how: object) -> None:
        self._why = "the interceptor has returned"

    def goes_on_here(self) -> None:
        """What the interceptor returned is awaited in the thread that calls this, which is its own from now on."""
        self._thread = threading.get_ident()

    def __call__(self, ctx: Any) -> Any:
        if self._why is not None:
            raise NotAllowedInStage(*self._said, self._why)
        if threading.get_ident() != self._thread:  # no timeout would end the body there, and nobody wait for its end
            raise NotAllowedInStage(*self._said, "it was called in another thread; call it in the interceptor's own")
        self._why = "an attempt is one call of the body; return StageOutput.retry(…) for another"
        return self._call(ctx)


def _checked(one: Any, answer: Any) -> StageOutput:
    if not is_a(answer, StageOutput):
        raise TypeError(
            f"interceptor {one.name}: around() returned {name_of_type(type(answer))}; it returns what call_next(ctx) "
            "gave, or a StageOutput of its own"
        )
    output: StageOutput = answer
    return output
