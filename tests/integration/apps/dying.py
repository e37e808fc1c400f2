"""A process that records a run and dies before it publishes: ``python -m tests.integration.apps.dying KEY``."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from tests.integration.apps.lanes import engine


def die(*_arguments: object) -> NoReturn:
    """SIGKILL, in the place of publishing."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


if __name__ == "__main__":
    engine.publisher.publish = die  # type: ignore[assignment,method-assign]  # the moment between commit and publish
    engine.enqueue("three", {}, idempotency_key=sys.argv[1])
