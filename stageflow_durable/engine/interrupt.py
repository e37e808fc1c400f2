"""Ending a body from outside: at its timeout, or once its work was taken over.

At the limit :class:`StageTimeout` is raised in the body; it is no ``Exception``, so that ``except Exception`` does
not swallow it. A body that goes on all the same is ended with its process after a grace, from C code
(``faulthandler``): a thread would not run while other C code holds the interpreter. An attempt is over only when its
body returned or its process died.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # what signal is made of; see below
import asyncio
import faulthandler
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from types import FrameType, TracebackType
from typing import Any, Self

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.stage import OnLeaseLost

STDERR = 2
GRACE_SECONDS = 5.0
"""How long a body may clean up after its timeout before its process is ended."""

AGAIN_SECONDS = 1.0
"""How often a coroutine that blocks its loop is interrupted, from a little after its timeout on."""


class StageTimeout(BaseException):
    """The attempt took longer than its ``timeout``."""


def ends_process() -> bool:
    """Whether a body of this thread that does not heed its timeout is ended with its process: only in the main one."""
    return threading.current_thread() is threading.main_thread()


def time_left() -> float:
    """Seconds until what bounds this thread now rings; infinite if nothing does."""
    innermost = _innermost[0] if ends_process() else None
    return float("inf") if innermost is None else innermost.until - time.monotonic()


def too_late(seconds: float) -> StageTimeout:
    """The error of an attempt that took longer."""
    return StageTimeout(f"it took longer than its timeout of {seconds:g} s")


class bounded:  # noqa: N801  # a context manager, used like the functions of contextlib
    """Bound what is within: the exception is raised there after ``seconds``, the process's end comes
    :data:`GRACE_SECONDS` later. What ends in time without having heeded the exception is late all the same.

    ``blocks``: for a coroutine, whose loop ends it in time: whether it keeps the loop from doing so. Only then is it
    interrupted here, and again until it lets go.

    One may be within another, as a body is within what wraps it: the innermost rings, and the outer one goes on with
    the time that is left to it. ``of``: the timeout of the whole, for the message.

    In a thread other than the main one there are neither signals nor an end of one thread alone: there only
    coroutines are bounded, by their loop.
    """

    def __init__(
        self, seconds: float | None, *, blocks: Callable[[], bool] | None = None, of: float | None = None
    ) -> None:
        self._seconds = seconds
        self._blocks = blocks
        self._of = seconds if of is None else of
        self._armed = False
        self._rang = False
        self._before: Any = None
        self._outer: bounded | None = None
        self.until = 0.0

    def __enter__(self) -> Self:
        if self._seconds is None or not ends_process():
            return self
        self._outer = _innermost[0]
        self.until = time.monotonic() + self._seconds
        self._before = signal.signal(signal.SIGALRM, self._ring)
        try:
            self._armed = True
            _innermost[0] = self
            self._arm(self._seconds)
        except BaseException:
            self._disarm()
            raise
        if self._rang:  # while it was being armed
            self._disarm()
            raise self._late()
        return self

    def _arm(self, seconds: float) -> None:
        # By number: a worker's sys.stderr is a logger, which has no file.
        faulthandler.dump_traceback_later(max(0.0, seconds) + GRACE_SECONDS, exit=True, file=STDERR)
        if self._blocks is not None:
            signal.setitimer(signal.ITIMER_REAL, max(0.0, seconds) + AGAIN_SECONDS, AGAIN_SECONDS)
        elif seconds > 0:
            signal.setitimer(signal.ITIMER_REAL, seconds)
        else:  # what was within has heard of it: what is around it cleans up, and is late
            self._rang = True

    def _late(self) -> StageTimeout:
        assert self._of is not None
        return too_late(self._of)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._armed:
            self._disarm()
            if self._rang and kind is None:
                raise self._late()

    def _disarm(self) -> None:
        self._armed = False  # one that rings from here on finds the body over
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)
        faulthandler.cancel_dump_traceback_later()
        _innermost[0] = outer = self._outer
        if outer is not None:
            outer.resume()

    def resume(self) -> None:
        """Go on with the time that is left: what was within is over."""
        self._arm(self.until - time.monotonic())

    def _ring(self, _number: int, frame: FrameType | None) -> None:
        if not self._armed or (self._blocks is not None and not self._blocks()):
            return
        self._rang = True
        if frame is None or frame.f_code not in _OWN:  # raised in there, it would leave the timer armed
            raise self._late()


_OWN = frozenset(
    method.__code__
    for method in (bounded.__enter__, bounded.__exit__, bounded.resume, bounded._arm, bounded._disarm)  # noqa: SLF001  # its own
)
_innermost: list[bounded | None] = [None]
"""The bound that rings now; they are the main thread's alone."""


# --- once the work was taken over -------------------------------------------------------------------------------------
# Nobody waits for the body any more, and its undo waits for its end. The heartbeat's thread learns of it, and the body
# runs in another. In a process's main thread a signal ends it, as a timeout does: a ``def`` gets TakenOver raised in
# it, an ``async def`` is cancelled, and what goes on all the same is ended with its process after the same grace.
# Another thread cannot be ended from outside: there the body goes on to its end.


class TakenOver(StageTimeout):
    """The body is to end: its work was taken over, or its lease was lost and its stage wants it to end then."""


class Interruption:
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


_asked: dict[int, Interruption] = {}
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
    asked = _asked.pop(os.getpid(), None)
    if asked is not None:
        asked.in_body()
    elif callable(_before):
        _before(number, frame)
    elif _before == signal.SIG_DFL:
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


# --- which stages are ended, and when ---------------------------------------------------------------------------------


MARGIN_SECONDS = 15.0
"""From the beginning of an attempt, as recorded, to the call of its body, at the most."""

Stage = tuple[str, str]
"""A pipeline's name and a stage's."""


def killed_after(pipelines: Iterable[Pipeline[Any, Any]]) -> dict[Stage, float]:
    """Seconds after which the process of a stage with a timeout has been ended, from its beginning as recorded."""
    return {
        (pipeline.name, spec.name): spec.timeout + GRACE_SECONDS + MARGIN_SECONDS
        for pipeline in pipelines
        for spec in pipeline.stages
        if spec.timeout is not None
    }


def ending_with_lease(pipelines: Iterable[Pipeline[Any, Any]], default: OnLeaseLost) -> frozenset[Stage]:
    """Stages whose body is to end once its lease is lost: the stage's word over the pipeline's over ``default``."""
    return frozenset(
        (pipeline.name, spec.name)
        for pipeline in pipelines
        for spec in pipeline.stages
        if (spec.on_lease_lost or pipeline.on_lease_lost or default) == "end"
    )
