"""How a command of Celery's ends over settings of ours that are missing or wrong: one line, and exit code 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any, TypeVar

import click

from stageflow_durable.errors import ConfigurationError

T = TypeVar("T")


class BadSettings(click.ClickException):
    """Ends Celery's command line as one of its own errors would, instead of with a traceback."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"stageflow: {self.message}", file=file, err=True)


def in_a_line(configured: Callable[[], T]) -> Callable[[], T]:
    """``configured``, whose ConfigurationError is that line while one of Celery's commands runs; elsewhere it stays
    what it is.
    """

    def ask() -> T:
        try:
            return configured()
        except ConfigurationError as error:
            if _under_celery():
                raise BadSettings(str(error)) from error
            raise

    return ask


def _under_celery() -> bool:
    context = click.get_current_context(silent=True)
    callback = None if context is None else context.find_root().command.callback
    return callback is not None and callback.__module__.startswith("celery.")
