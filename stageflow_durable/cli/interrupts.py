"""Ctrl-C between two steps, not in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Steps:
    """Holds Ctrl-C back from :meth:`hold` to :meth:`release`, so that what was done until then can be told.

    A second Ctrl-C is raised at once; ``torn`` then says that a step was cut in the middle.
    """

    def __init__(self) -> None:
        self.torn = False
        self._came = False
        self._before: Any = None

    def hold(self) -> None:
        """A step begins. Elsewhere than in the main thread no signal arrives, and nothing is held back."""
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._on_signal)

    def release(self) -> None:
        """The step has ended and was told. Raises KeyboardInterrupt if Ctrl-C came meanwhile."""
        self._restore()
        if self._came:
            self._came = False
            raise KeyboardInterrupt

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Where the steps are: in the end Ctrl-C is what it was before."""
        try:
            yield
        finally:
            self._restore()

    def pause(self, seconds: float) -> None:
        """Wait in the middle of a step; Ctrl-C cuts it here."""
        self._restore()
        self.torn = True
        if not self._came:
            threading.Event().wait(seconds)
        if self._came:
            raise KeyboardInterrupt
        self.torn = False
        self.hold()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _on_signal(self, _number: int, _frame: object) -> None:
        if self._came:
            self.torn = True
            raise KeyboardInterrupt
        self._came = True
