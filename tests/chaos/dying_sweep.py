"""A process that sweeps until it dies at one point of a sweep: ``python -m tests.chaos.dying_sweep POINT``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from tests.chaos.app import engine

POINTS = ("mark_expired", "take", "wake", "missed", "publish", "nudged")


def kill_after(what: Any, name: str, *, before: bool = False) -> None:
    """SIGKILL once that method has been called (or is about to be)."""
    real = getattr(what, name)

    def fatal(*arguments: Any, **named: Any) -> Any:
        answer = None if before else real(*arguments, **named)
        if before or answer:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(what, name, fatal)


if __name__ == "__main__":
    point = sys.argv[1]
    if point == "publish":
        kill_after(engine.publisher, "publish", before=True)
    else:
        kill_after(engine.store, point)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        engine.sweep()
        time.sleep(0.1)
