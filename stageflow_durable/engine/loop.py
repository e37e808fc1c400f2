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
from contextvars import Context
from typing import Any

from stageflow_durable.engine.ends import is_end_of_process
from stageflow_durable.engine.leftovers import Leftovers, Watch
from stageflow_durable.engine.timeout import AGAIN_SECONDS, GRACE_SECONDS, StageTimeout, bounded, too_late

log = logging.getLogger("stageflow.body")


class Coroutine:
    """One ``async def`` body on its way. ``what`` names its run and stage for the log."""

    def __init__(self, start: Callable[[], Any], timeout: float | None, what: str) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        self._start = start
        self._timeout = timeout
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
        self._limit = limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                self.value = await self._start()
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
        assert self._timeout is not None
        return too_late(self._timeout)

    def insist(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        """Where no process can be ended for it: cancel it again and again, from the end of its grace on."""
        if self._timeout is not None:
            alarm = loop.call_later(self._timeout + GRACE_SECONDS, self._again, loop, task, True)
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

    def run(self, body: Coroutine, context: Context, timeout: float | None) -> None:
        with bounded(timeout, blocks=lambda: not body.told and asyncio.current_task(self.loop) is not None):
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

    def run(self, body: Coroutine, context: Context, _timeout: float | None) -> None:
        over = threading.Event()
        task: asyncio.Task[None] | None = None

        def start() -> None:
            nonlocal task
            try:
                task = self.loop.create_task(body.run(self._watch), context=context)
                task.add_done_callback(lambda _task: over.set())
                body.insist(self.loop, task)
            except BaseException as error:  # noqa: BLE001  # who waits has to know
                body.error = error
                over.set()

        self.loop.call_soon_threadsafe(start, context=Context())
        try:
            over.wait()
        except BaseException:
            self.loop.call_soon_threadsafe(lambda: task and task.cancel(), context=Context())
            raise


_loops: dict[tuple[int, type], Any] = {}
"""By process and kind. A forked child leaves its parent's alone: closing one would touch what both have open."""


def _mine(kind: type) -> Any:
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


def run(start: Callable[[], Any], context: Context, timeout: float | None, what: str) -> Any:
    """Call ``start`` within the loop and await what it gives, in ``context``; returns its value, raises its error.

    ``timeout`` in seconds, StageTimeout beyond it. A body that swallows its cancellation is waited for: in the main
    thread its process is ended after the grace, elsewhere it is cancelled again and again.
    """
    body = Coroutine(start, timeout, what)
    _fitting().run(body, context, timeout)
    if body.error is not None:
        raise body.error
    return body.value
