"""From handing in to the answer: what one caller waits for while the worker has nothing else to do."""

from __future__ import annotations

import time
from collections.abc import Callable

WARM = 20
PATIENCE = 30.0
"""Seconds after which a caller gives up, and the measurement has failed."""


def waited_ms(ask: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of so many calls, one after the other, once connections are open."""
    for _ in range(WARM):
        ask()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    return took
