"""Time and chance, the only place that asks the machine for them: everything else gets them through arguments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""The bounds of what is shown as a date, a day from those of :class:`datetime`, so that no time zone goes beyond."""

_FIRST, _LAST = EARLIEST.timestamp(), LATEST.timestamp()


def as_moment(seconds: float) -> datetime:
    """Stored seconds since the epoch as an aware datetime.

    What no datetime can hold (a clock that was wrong, another program's value, NaN) is shown as :data:`EARLIEST` or
    :data:`LATEST`: one such row must not keep a list from being shown.
    """
    if _FIRST <= seconds <= _LAST:
        return datetime.fromtimestamp(seconds, UTC)
    return EARLIEST if seconds < _FIRST else LATEST  # NaN fails every comparison


def as_optional_moment(seconds: float | None) -> datetime | None:
    """The same where there may be none."""
    return None if seconds is None else as_moment(seconds)


class Clock(Protocol):
    """Time as the engine sees it. The database's clock decides about leases; this one paces and measures."""

    def time(self) -> float:
        """Seconds since the epoch."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)


Draw = Callable[[float, float], float]
"""A uniformly distributed number between two bounds."""


@dataclass(frozen=True, slots=True)
class World:
    """What an engine takes from outside: time and chance."""

    clock: Clock
    draw: Draw


def system_world() -> World:
    """The real one."""
    return World(SystemClock(), random.Random().uniform)  # noqa: S311  # jitter, not a secret
