"""What the engine logs while a command runs: one line a kind of trouble, however often it happens.

A process that calls commands as functions (tests, Celery's own shell) gets its logging back when each one ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import click

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
        handler = Once()
        logger.addHandler(handler)
        _when_the_command_ends(partial(logger.removeHandler, handler))


def without_broker() -> None:
    """With the database alone nothing can be published: that is how it is meant, and needs no warning."""
    logger = logging.getLogger(f"{LOGGER}.accept")
    _when_the_command_ends(partial(logger.setLevel, logger.level))
    logger.setLevel(logging.ERROR)


def _when_the_command_ends(restore: Callable[[], None]) -> None:
    ctx = click.get_current_context(silent=True)
    if ctx is not None:  # else nobody says when: of a process that was not begun by a command
        ctx.find_root().call_on_close(restore)
