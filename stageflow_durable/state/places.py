"""A number of places that threads take in the order in which they came, each waiting a bounded time for one."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, SimpleQueue


class Place:
    """One of the places; given back by :meth:`leave`, or when nobody holds it any more: a thread that was interrupted
    on its way (a time limit, a signal) takes none with it.
    """

    __slots__ = ("_of",)

    def __init__(self, of: Places) -> None:
        self._of: Places | None = of

    def leave(self) -> None:
        """Give it back. Idempotent."""
        of, self._of = self._of, None
        if of is not None:
            of.left()

    __del__ = leave


class Places:
    """``most`` places. Threads that would only compete for a lock may starve; these are served in turn."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[SimpleQueue[Place]] = deque()
        self._lock = threading.RLock()  # a place may be dropped, and so be given back, by who holds it

    def take(self, seconds: float) -> Place | None:
        """A place, or None when there was none within ``seconds``."""
        with self._lock:
            if self._free > 0 and not self._waiting:
                self._free -= 1
                return Place(self)
            mine: SimpleQueue[Place] = SimpleQueue()
            self._waiting.append(mine)
        try:
            return mine.get(timeout=seconds)
        except Empty:
            return self._given_up(mine)

    def _given_up(self, mine: SimpleQueue[Place]) -> Place | None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return None
        return mine.get_nowait()  # it came at the last moment

    def left(self) -> None:
        """Hand a place that was left to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(Place(self))
            else:
                self._free += 1
