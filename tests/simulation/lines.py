"""Lines of control that run one at a time: threads that hand one baton to each other, so that chance alone decides who
goes on.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Line:
    """A thread that does one job after another, each only as far as it is told to go."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._turn = _thread.allocate_lock()
        self._turn.acquire()
        self._job: Job | None = None
        threading.Thread(target=self._live, name="simulated", daemon=True).start()

    def _live(self) -> None:
        while True:
            self._turn.acquire()
            job, self._job = self._job, None
            if job is not None:
                job()
            self._stage.give_back(self)

    def begin(self, job: Job) -> None:
        """Give it a job; it begins at the next :meth:`go`."""
        self._job = job

    def go(self) -> None:
        """Called by whoever directs: let it go on, until it stops or its job is done."""
        self._turn.release()
        self._stage.baton.acquire()

    def stop(self) -> None:
        """Called on the line itself: wait for the next :meth:`go`."""
        self._stage.baton.release()
        self._turn.acquire()


class Stage:
    """All lines, and the one baton. Lines whose job is done are used again."""

    def __init__(self) -> None:
        self.baton = _thread.allocate_lock()
        self.baton.acquire()
        self._idle: list[Line] = []

    def line(self, job: Job) -> Line:
        """A line that will do ``job``."""
        line = self._idle.pop() if self._idle else Line(self)
        line.begin(job)
        return line

    def give_back(self, line: Line) -> None:
        """The job of this line is done."""
        self._idle.append(line)
        self.baton.release()
