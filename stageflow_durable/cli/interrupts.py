"""Ctrl-C, and being asked to end, between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ASKED_TO_END = ("SIGINT", "SIGTERM", "SIGHUP")
"""Ctrl-C, ``kill`` and ``timeout``, a terminal that was closed; where the system has them."""


class Steps:
    """Holds these signals back from :meth:`hold` to :meth:`release`, so that what was done until then can be told.

    They end as KeyboardInterrupt. A second one is raised at once; ``torn`` then says that a step was cut in the middle.
    ``number``: of the signal that came last.
    """

    def __init__(self) -> None:
        self.torn = False
        self.number = int(signal.SIGINT)
        self._came = False
        self._holding = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Where the steps are: in the end the signals do what they did before."""
        before: dict[signal.Signals, Any] = {}
        # Elsewhere than in the main thread no signal arrives; one that is ignored, as under nohup, stays ignored.
        if threading.current_thread() is threading.main_thread():
            known = [getattr(signal, name) for name in ASKED_TO_END if hasattr(signal, name)]
            held = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]
            before = {number: signal.signal(number, self._on_signal) for number in held}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        """A step begins."""
        self._holding = True

    def release(self) -> None:
        """The step has ended and was told. Raises KeyboardInterrupt if a signal came meanwhile."""
        self._holding = False
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    def pause(self, seconds: float) -> None:
        """Wait in the middle of a step; a signal cuts it here."""
        self.torn = True
        self._holding = False
        if not self._came:
            threading.Event().wait(seconds)
        if self._came:
            raise KeyboardInterrupt
        self.torn = False
        self._holding = True

    def _on_signal(self, number: int, _frame: object) -> None:
        self.number = number
        if self._came or not self._holding:
            self.torn = self.torn or self._holding
            raise KeyboardInterrupt
        self._came = True
