"""A clock that stands still until it is told to move."""

from __future__ import annotations

from collections.abc import Callable

from stageflow_durable.duration import is_duration, shown

START = 1_767_225_600.0
"""2026-01-01T00:00:00Z, in seconds since the epoch: where a :class:`FakeClock` begins unless told otherwise."""


class FakeClock:
    """A :class:`stageflow_durable.clock.Clock` for tests: the engine's clock and, on SQLite, the database's as well.

    ``moved`` is called with the new time after each move; a test that brings a database with a clock of its own sets
    that clock there. ``idle`` is called with the seconds slept after each :meth:`sleep`: whoever waits for something
    gives the others time to do it.
    """

    def __init__(self, start: float = START) -> None:
        self._now = start
        self.moved: Callable[[float], None] = _nothing
        self.idle: Callable[[float], None] = _nothing

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """The same seconds: this clock never goes back."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Move on by ``seconds`` at once."""
        self.advance(seconds)
        self.idle(seconds)

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass, at most ten years. Raises ValueError for a negative number, or what is none."""
        if not is_duration(seconds):
            raise ValueError(f"a clock does not go back, nor further than ten years at once: {shown(seconds)}")
        self._now += seconds
        self.moved(self._now)

    def advance_to(self, moment: float) -> None:
        """Let time pass until ``moment`` (seconds since the epoch); a moment in the past changes nothing."""
        self.advance(max(0.0, moment - self._now))


def _nothing(_number: float) -> None:
    return None
