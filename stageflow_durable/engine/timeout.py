"""Bounding one attempt in time.

At the limit :class:`StageTimeout` is raised in the body; it is no ``Exception``, so that ``except Exception`` does
not swallow it. A body that goes on all the same is ended with its process after a grace, from C code
(``faulthandler``): a thread would not run while other C code holds the interpreter. An attempt is over only when its
body returned or its process died.
"""

from __future__ import annotations

import faulthandler
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STDERR = 2
GRACE_SECONDS = 5.0
"""How long a body may clean up after its timeout before its process is ended."""


class StageTimeout(BaseException):
    """The attempt took longer than its ``timeout``."""


@contextmanager
def bounded(seconds: float | None, *, late: float = 0.0) -> Iterator[None]:
    """Bound a body: the exception comes ``late`` seconds after its time, the process's end :data:`GRACE_SECONDS` after
    it. In a thread other than the main one there are neither signals nor an end of one thread alone: there only
    coroutines are bounded, by their loop.
    """
    if seconds is None:
        yield
        return
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    alarm = _Alarm(seconds)
    before = signal.signal(signal.SIGALRM, alarm)
    # By number: a worker's sys.stderr is a logger, which has no file.
    faulthandler.dump_traceback_later(seconds + GRACE_SECONDS, exit=True, file=STDERR)
    signal.setitimer(signal.ITIMER_REAL, seconds + late)
    try:
        yield
    finally:
        alarm.armed = False  # one that rings from here on finds the body over
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()


class _Alarm:
    """Raises in the body, as long as there is one."""

    def __init__(self, seconds: float) -> None:
        self.armed = True
        self._seconds = seconds

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        if self.armed:
            raise StageTimeout(f"it took longer than its timeout of {self._seconds:g} s")
