"""Time and chance, the only place that asks the machine for them: everything else gets them through arguments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


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
