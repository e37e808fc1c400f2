"""A command as a sink: it gets each event as JSON on its standard input."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from typing import IO

from stageflow_durable.model.sinks import TOLD, RunEvent
from stageflow_durable.sinks.checked import check_command, check_kinds, check_name, check_timeout
from stageflow_durable.sinks.message import as_text


class CommandFailed(Exception):
    """The command did not take an event; the message says how it ended."""


class Command:
    """Starts a program for each event, without a shell; one that exits with 0 took the event.

    ``arguments``: the program and its arguments. ``timeout``: seconds after which it is killed.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        name: str | None = None,
        kinds: Sequence[str] = TOLD,
        timeout: float = 30.0,
    ) -> None:
        self._arguments, self._timeout = check_command(arguments), check_timeout(timeout)
        self.name = check_name(f"command:{arguments[0]}"[:200] if name is None else name)
        self.kinds = check_kinds(kinds)

    def __repr__(self) -> str:
        return f"Command({self.name!r})"

    def deliver(self, event: RunEvent) -> None:
        """Start it, and wait for its end. Raises CommandFailed, or OSError where it cannot be started."""
        with TemporaryFile() as said:  # no pipe: something that it leaves running may keep it open
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,  # what it starts itself is killed with it
            )
            try:
                process.communicate(as_text(event).encode() + b"\n", timeout=self._timeout)
            except subprocess.TimeoutExpired:
                _kill(process)
                raise CommandFailed(f"{self._arguments[0]} did not end within {self._timeout:g} s") from None
            if process.returncode:
                raise CommandFailed(f"{self._arguments[0]} exited with {process.returncode}: {_last_line(said)}")


def _last_line(said: IO[bytes]) -> str:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    return said.read().decode(errors="replace").strip().rpartition("\n")[2] or "it said nothing"


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
