"""Lines of control that run one at a time: greenlets, which go on only where they are told to, so that chance alone
decides who does.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from greenlet import getcurrent, greenlet

Job = Callable[[], None]
T = TypeVar("T")
_thread = ThreadPoolExecutor(1, "simulated")


def apart(action: Callable[[], T]) -> T:
    """Do it in the simulation's own thread: in the main one an alarm of the real clock would bound the bodies."""
    return _thread.submit(action).result()


class Line:
    """Does its job, each time only as far as it is told to go."""

    def __init__(self, job: Job) -> None:
        self._line = greenlet(job)

    def go(self) -> None:
        """Called by whoever directs: let it go on, until it stops or its job is done."""
        self._line.parent = getcurrent()  # whoever began it may be a line itself
        self._line.switch()

    def stop(self) -> None:
        """Called on the line itself: wait for the next :meth:`go`."""
        director = self._line.parent
        assert director is not None, "it was never told to go"
        director.switch()
