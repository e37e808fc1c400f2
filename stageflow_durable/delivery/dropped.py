"""Messages that are dropped for good: each is counted, and told in a line, as long as not hundreds come."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from stageflow_durable.engine.attempt_log import one_line
from stageflow_durable.masking import masked

log = logging.getLogger("stageflow.messages")

LINES = 20
WINDOW_SECONDS = 10.0
"""No more lines than that within that time; what was left out is counted in the next one."""


class Dropped:
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


dropped = Dropped()
"""This process's; a child begins with its parent's count."""


# --- what a log may repeat of what came from outside: short, on one line, masked --------------------------------------


LENGTH = 300
"""Characters that are kept."""

_READ = 10_000
"""Characters that are looked at: a password may be long, and is masked before its text is cut."""


def said(text: object) -> str:
    """``text``, or its repr, for a log. Whatever its own methods raise is said instead."""
    try:
        read = text if isinstance(text, str) else repr(text)
    except Exception as error:  # noqa: BLE001  # of an object that is not ours
        read = f"<{type(text).__name__} that cannot be shown: {type(error).__name__}>"
    kept = masked(read[:_READ])
    return one_line(kept if len(kept) <= LENGTH else f"{kept[:LENGTH]}…")


def said_of(error: BaseException) -> str:
    """An error's type and text, for a log."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # of an error that is not ours
        text = ""
    return f"{type(error).__name__}: {said(text)}" if text else type(error).__name__
