"""The event loop that ``async def`` bodies run on: one a process, for as long as the process lives.

In the main thread, where a prefork child and a solo worker call their bodies, the loop runs there, so that a signal can
interrupt a body that blocks it. Called from anywhere else (a pool's threads, a test inside a running loop) bodies go to
one loop in a thread of its own. Either survives every timeout: a client that a stage keeps works in the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextvars import Context, copy_context
from queue import SimpleQueue
from typing import Any

from stageflow_durable.engine.interrupt import AGAIN_SECONDS, GRACE_SECONDS, StageTimeout, bounded, too_late
from stageflow_durable.engine.leftovers import Leftovers, Watch, inherit
from stageflow_durable.engine.process_end import is_end_of_process

log = logging.getLogger("stageflow.body")


class Outside:
    """A call that a coroutine leaves to the thread which waits for it: a ``def`` within an ``async def``.

    It runs in a copy of the coroutine's context, which may be entered meanwhile. Begun or withdrawn, but not both: the
    two threads agree by taking the one token.
    """

    def __init__(self, action: Callable[[], Any]) -> None:
        self.context = copy_context()
        self.over = asyncio.get_running_loop().create_future()
        self.value: Any = None
        self.error: BaseException | None = None
        self._action = action
        self._token = [True]

    def take(self) -> bool:
        """Whether nobody has taken it before."""
        try:
            return self._token.pop()
        except IndexError:
            return False

    def call(self) -> None:
        """Call it, in the thread that waits. Raises only what ends the process."""
        try:
            self.value = self.context.run(self._action)
        except BaseException as error:
            self.error = error
            if is_end_of_process(error):
                raise

    def end(self) -> None:
        """Wake the coroutine; called within the loop, or while that rests."""
        if not self.over.done():
            self.over.set_result(None)


class Coroutine:
    """One ``async def`` body on its way. ``what`` names its run and stage for the log; ``of``: the timeout of the
    whole of which this is a part. ``calls``: what is to be called outside of the loop while that rests; ``queue``: the
    same where the loop goes on.
    """

    calls: tuple[Outside, ...] = ()
    queue: SimpleQueue[Outside | None] | None = None

    def __init__(
        self, start: Callable[[Coroutine], Any], timeout: float | None, what: str, of: float | None = None
    ) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self.timeout = timeout
        self.of = timeout if of is None else of
        self._start = start
        self._what = what
        self._limit: asyncio.Timeout | None = None
        self._made = Leftovers()

    @property
    def told(self) -> bool:
        """Whether its loop has come to ending it in time."""
        return self._limit is not None and self._limit.expired()

    async def run(self, watch: Watch) -> None:
        """Run it to its end, however that is, and end what it leaves; never raises."""
        watch.over_generators()
        self._made.adopt()
        self._limit = limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                self.value = await self._start(self)
            if limit.expired():
                self.error = self._late()  # it has swallowed its cancellation; what it says now is late
        except TimeoutError as error:
            self.error = self._late() if limit.expired() else error
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the body's end
            self.error = error
            if is_end_of_process(error):
                return
        try:
            cut_off = limit.expired() or isinstance(self.error, StageTimeout)
            left = await self._made.end(wait_for_threads=cut_off)
        except BaseException as error:  # noqa: BLE001  # a task of its own may raise anything while it is cancelled
            left = f"what could not be ended: {type(error).__name__}"
        if left is not None:
            log.warning("%s left behind %s", self._what, left)

    def _late(self) -> BaseException:
        assert self.of is not None
        return too_late(self.of)

    async def outside(self, action: Callable[[], Any]) -> Any:
        """What ``action()`` gives, called by the thread that waits for this coroutine, outside of the loop.

        Cancelled meanwhile, this waits on: what is around a call does not end before it. The action has its own bound.
        """
        call = Outside(action)
        if self.queue is not None:
            self.queue.put(call)
        else:
            self.calls = (*self.calls, call)
            asyncio.get_running_loop().stop()
        cancelled: asyncio.CancelledError | None = None
        while not call.over.done():
            try:
                await asyncio.wait([call.over])
            except asyncio.CancelledError as error:
                cancelled = error
                if call.take():
                    raise  # it has not begun, and will not
        inherit(call.context)
        if cancelled is not None:
            raise cancelled
        if call.error is not None:
            raise call.error
        return call.value

    def insist(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Where no process can be ended for it: cancel it again and again, from the end of its grace on."""
        if self.timeout is not None:
            alarm = loop.call_later(self.timeout + GRACE_SECONDS, self._again, loop, task, True)
            task.add_done_callback(lambda _task: alarm.cancel())

    def _again(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], first: bool) -> None:
        if task.done():
            return
        if first:
            log.error("%s goes on after its timeout; it holds its thread until it ends", self._what)
        task.cancel()
        loop.call_later(AGAIN_SECONDS, self._again, loop, task, False)


class _Here:
    """A loop that runs in the main thread, while there is a body for it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._watch = Watch(self.loop)

    def run(self, body: Coroutine, context: Context) -> None:
        def blocks() -> bool:
            return not body.told and asyncio.current_task(self.loop) is not None

        with bounded(body.timeout, blocks=blocks, of=body.of):
            task = self.loop.create_task(body.run(self._watch), context=context)
            while not task.done():
                try:
                    self.loop.run_until_complete(task)
                except (SystemExit, KeyboardInterrupt) as error:
                    # asyncio lets these through from any task; a task of the body's has kept it for who awaits it.
                    if is_end_of_process(error):
                        self._end(task)
                        raise
                except RuntimeError:
                    if self.loop.is_closed() or asyncio._get_running_loop() is not None:  # noqa: SLF001  # as below
                        raise  # else the body has stopped its loop
                while body.calls:
                    call, *others = body.calls
                    body.calls = tuple(others)
                    self._call(call, task)

    def _call(self, call: Outside, task: asyncio.Task[None]) -> None:
        """Call what a coroutine wants to be called outside of the loop, which rests meanwhile."""
        if not call.take():
            return
        try:
            call.call()
        except BaseException:
            call.end()
            self._end(task)
            raise
        call.end()

    def _end(self, task: asyncio.Task[None]) -> None:
        """The program is interrupted: nothing of the body goes on in a later one."""
        task.cancel()
        self.loop.run_until_complete(asyncio.wait({task}, timeout=AGAIN_SECONDS))


class _Apart:
    """A loop in a thread of its own, for all other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._watch = Watch(self.loop)
        self.thread = threading.Thread(target=self._serve, name="stageflow-loop", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        while not self.loop.is_closed():
            try:
                self.loop.run_forever()
            except BaseException:  # noqa: BLE001, S112  # SystemExit of a task of a body's, which has kept it
                continue

    def run(self, body: Coroutine, context: Context) -> None:
        calls: SimpleQueue[Outside | None] = SimpleQueue()  # None: the body is over
        task: asyncio.Task[None] | None = None
        body.queue = calls

        def start() -> None:
            nonlocal task
            try:
                task = self.loop.create_task(body.run(self._watch), context=context)
                task.add_done_callback(lambda _task: calls.put(None))
                body.insist(self.loop, task)
            except BaseException as error:  # noqa: BLE001  # who waits has to know
                body.error = error
                calls.put(None)

        self.loop.call_soon_threadsafe(start, context=Context())
        try:
            while (call := calls.get()) is not None:
                if call.take():
                    try:
                        call.call()
                    finally:
                        self.loop.call_soon_threadsafe(call.end, context=Context())
        except BaseException:
            self.loop.call_soon_threadsafe(lambda: task and task.cancel(), context=Context())
            raise


_loops: dict[tuple[int, type], Any] = {}
"""By process and kind. A forked child leaves its parent's alone: closing one would touch what both have open."""


_making: dict[int, threading.Lock] = {}  # by process: a fork may leave the parent's held for ever


def _mine(kind: type) -> Any:
    found = _loops.get((os.getpid(), kind))
    if found is None or found.loop.is_closed():
        with _making.setdefault(os.getpid(), threading.Lock()):  # of threads that come together, one makes it
            found = _loops.get((os.getpid(), kind))
            if found is None or found.loop.is_closed():
                found = _loops[os.getpid(), kind] = kind()
    return found


def _fitting() -> Any:
    running = asyncio._get_running_loop()  # noqa: SLF001  # its public twin raises where there is none
    if running is None and threading.current_thread() is threading.main_thread():
        return _mine(_Here)
    apart = _mine(_Apart)
    return apart if apart.thread is not threading.current_thread() else _Apart()  # a body that runs others


def run(
    start: Callable[[Coroutine], Any],
    context: Context,
    timeout: float | None,
    what: str,
    *,
    of: float | None = None,
) -> Any:
    """Call ``start`` within the loop and await what it gives, in ``context``; returns its value, raises its error.

    ``timeout`` in seconds, StageTimeout beyond it. A body that swallows its cancellation is waited for: in the main
    thread its process is ended after the grace, elsewhere it is cancelled again and again.
    """
    body = Coroutine(start, timeout, what, of)
    _fitting().run(body, context)
    if body.error is not None:
        raise body.error
    return body.value
