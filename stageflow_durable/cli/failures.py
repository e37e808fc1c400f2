"""How a command fails: one line on stderr with the way out, and an exit code a script can rely on."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from stageflow_durable.errors import StageflowError
from stageflow_durable.legible import legible
from stageflow_durable.masking import masked

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Failure(click.ClickException):
    """Refused or failed: ends the command with one line on stderr and exit code 1."""

    exit_code = FAILED

    def __init__(self, message: str) -> None:
        super().__init__(one_line(masked(message)))

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"stageflow: {self.message}", file=file, err=True)


class Misuse(Failure):
    """Wrong usage: the same with exit code 2."""

    exit_code = USAGE


class OutputLost(Failure):
    """Standard output takes nothing more. Nothing is said of a pipe that was closed: ``| head`` has what it wanted."""

    def __init__(self, error: OSError) -> None:
        self.closed = error.errno == errno.EPIPE
        what = "whoever read the output has gone" if self.closed else error.strerror or str(error)
        super().__init__(f"standard output: {what}")

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, unless it goes without saying."""
        if not self.closed:
            super().show(file)


_OF_A_STREAM = frozenset({errno.EPIPE, errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG, errno.EAGAIN})


def one_line(message: str) -> str:
    """``message`` with its line breaks folded into spaces, and nothing in it that acts on a terminal."""
    return legible(" ".join(message.split()))


@contextmanager
def plainly(explained: Callable[[StageflowError], str] = str) -> Iterator[None]:
    """Turn what goes wrong on purpose into one line and an exit code; a bug of ours keeps its traceback.

    ``explained``: what to say of an error of ours.
    """
    try:
        yield
    except StageflowError as error:
        raise Failure(explained(error) or type(error).__name__) from error
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_A_STREAM:
            raise
        raise OutputLost(error) from error
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        raise _usage(error) from error
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo(err=True)  # closes the terminal's ^C
        raise click.exceptions.Exit(INTERRUPTED) from error


def _usage(error: click.UsageError) -> Failure:
    path = error.ctx.command_path if error.ctx else "stageflow"
    message = one_line(error.format_message()).rstrip(".")
    return Misuse(f"{message[:1].lower()}{message[1:]} (see: {path} --help)")
