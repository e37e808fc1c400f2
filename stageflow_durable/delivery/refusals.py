"""Messages that are dropped for good: each is counted, and told in a line, as long as not hundreds come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from stageflow_durable.delivery.said import said

log = logging.getLogger("stageflow.messages")

LINES = 20
WINDOW_SECONDS = 10.0
"""No more lines than that within that time; what was left out is counted in the next one."""


class Refusals:
    """Those of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._since = float("-inf")
        self._lines = 0
        self._untold = 0
        self.count = 0

    def add(self, what: str, why: str) -> None:
        """Count one, and say ``why``. ``what``: which message, as it says itself."""
        with self._guard:
            self.count += 1
            now = self._clock()
            if now - self._since > WINDOW_SECONDS:
                self._since, self._lines = now, 0
            if self._lines >= LINES:
                self._untold += 1
                return
            self._lines += 1
            untold, self._untold = self._untold, 0
            count = self.count
        more = f"; {untold} more were not told" if untold else ""
        log.error("dropped a message (%s): %s; %d dropped so far%s", said(what), said(why), count, more)


refusals = Refusals()
"""This process's; a child begins with its parent's count."""
