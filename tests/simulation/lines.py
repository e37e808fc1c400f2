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
    """Does its job, each time only as far as it is told to go. The greenlet of one that is done takes another's job: to
    begin a new one, with a stack of its own, costs as much as twenty turns.
    """

    def __init__(self, job: Job) -> None:
        self._job: Job | None = job
        self._greenlet: greenlet | None = None

    def go(self) -> None:
        """Called by whoever directs: let it go on, until it stops or its job is done."""
        if self._greenlet is None:
            self._greenlet = _idle.pop() if _idle else greenlet(_take_jobs)
            self._greenlet.gr_context = None  # what the job before it has set is not for this one
        self._greenlet.parent = getcurrent()  # whoever began it may be a line itself
        job, self._job = self._job, None
        self._greenlet.switch(job)

    def stop(self) -> None:
        """Called on the line itself: wait for the next :meth:`go`."""
        assert self._greenlet is not None, "it was never told to go"
        _back(self._greenlet)


_idle: list[greenlet] = []


def _take_jobs(job: Job) -> None:
    me = getcurrent()
    while True:
        job()
        _idle.append(me)
        job = _back(me)


def _back(line: greenlet) -> Job:
    """Let the director go on, until it says what to do next."""
    director = line.parent
    assert director is not None
    next_job: Job = director.switch()
    return next_job
