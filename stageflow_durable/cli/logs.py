"""What the engine logs while a command runs: one line a kind of trouble, however often it happens."""

from __future__ import annotations

import logging

from stageflow_durable.cli.failures import one_line
from stageflow_durable.cli.output import say

LOGGER = "stageflow"


class Once(logging.Handler):
    """Says each message on stderr once only: a file of a thousand lines meets the same broker a thousand times."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """Say it, unless it was said before."""
        message = one_line(record.getMessage())
        if message not in self._said:
            self._said.add(message)
            say(f"stageflow: {message}")


def listen() -> None:
    """Have the engine's warnings said once each; instead of as Python's last resort would, without end."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(handler, Once) for handler in logger.handlers):
        logger.addHandler(Once())


def without_broker() -> None:
    """With the database alone nothing can be published: that is how it is meant, and needs no warning."""
    logging.getLogger(f"{LOGGER}.accept").setLevel(logging.ERROR)
