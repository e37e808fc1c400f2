"""Ending a body from outside: once its work was taken over nobody waits for it, and its undo waits for its end.

The heartbeat's thread learns of it, and the body runs in another. In a process's main thread a signal ends it, as a
timeout does: a ``def`` gets :class:`TakenOver` raised in it, an ``async def`` is cancelled, and what goes on all the
same is ended with its process after the same grace. Another thread cannot be ended from outside: there the body goes
on to its end.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal is made of; see below
import asyncio
import faulthandler
import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from stageflow_durable.engine.timeout import GRACE_SECONDS, STDERR, StageTimeout


class TakenOver(StageTimeout):
    """The body is to end: its work was taken over, or its lease was lost and its stage wants it to end then."""


class Ending:
    """Around each body of one thread. ``ends_with_lease``: whether the body is to end once its lease is lost, even if
    nobody took its work.
    """

    def __init__(self) -> None:
        self._thread = 0
        self._ends_with_lease = False
        self._why: str | None = None

    def of(self, *, ends_with_lease: bool) -> Self:
        """For the next body."""
        self._ends_with_lease = ends_with_lease
        return self

    def __enter__(self) -> None:
        self._why = None
        self._thread = threading.get_ident()
        _catch()

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._thread = 0
        if self._why is not None:
            faulthandler.cancel_dump_traceback_later()

    def taken_over(self) -> None:
        """Called by the heartbeat: the work of this thread was taken over."""
        self._end("its work was taken over")

    def lease_lost(self) -> None:
        """Called by the heartbeat: the lease has run out, and nobody can be asked what became of the work."""
        if self._ends_with_lease:
            self._end("its lease was lost")

    def _end(self, why: str) -> None:
        thread = self._thread
        if not thread or self._why is not None or thread != threading.main_thread().ident:
            return
        self._why = why
        _asked[os.getpid()] = self
        # In C, as for a timeout: another thread would not run while other C code holds the interpreter.
        faulthandler.dump_traceback_later(GRACE_SECONDS, exit=True, file=STDERR)
        signal.pthread_kill(thread, signal.SIGVTALRM)

    def in_body(self) -> None:
        """Called by the signal, in the body's thread."""
        if not self._thread or self._why is None:
            return
        loop = asyncio._get_running_loop()  # noqa: SLF001  # of this thread, or None: the public one raises
        if loop is None:
            raise TakenOver(self._why)
        for task in asyncio.all_tasks(loop):
            loop.call_soon_threadsafe(task.cancel)  # it may wait for its sockets: that wakes it


_asked: dict[int, Ending] = {}
_before: Any = signal.SIG_DFL
_MAIN = threading.main_thread().ident
_SIGNAL = int(signal.SIGVTALRM)
_handler = _signal.getsignal  # without looking for an enum's member, which costs ten times as much


def _catch() -> None:
    """Receive the signal; a body may have set a handler of its own. Whoever received it before gets what is not
    ours.
    """
    global _before  # noqa: PLW0603  # what is set is the process's as well
    if threading.get_ident() == _MAIN and _handler(_SIGNAL) is not _received:
        _before = signal.signal(signal.SIGVTALRM, _received)


def _received(number: int, frame: FrameType | None) -> None:
    ending = _asked.pop(os.getpid(), None)
    if ending is not None:
        ending.in_body()
    elif callable(_before):
        _before(number, frame)
    elif _before == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)
