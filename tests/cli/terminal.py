"""A command at a pseudo-terminal: what it shows, and what a person types."""

from __future__ import annotations

import os
import pty
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PATIENCE_SECONDS = 30.0


class Terminal:
    """Runs ``command`` with a terminal for all three streams; ``seen`` is everything that it has shown."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
        self.seen = ""
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.chdir(directory)
            os.execve(command[0], list(command), {**environment, "TERM": "xterm", "COLUMNS": "100"})

    def answers(self, prompt: str, text: str) -> Terminal:
        """Wait until ``prompt`` is shown, then type ``text`` and a new line (Ctrl-C alone)."""
        start = len(self.seen)
        self._read(until=lambda: prompt in self.seen[start:], what=prompt)
        assert prompt in self.seen[start:], f"{prompt!r} was not shown; seen: {self.seen}"
        time.sleep(0.5)  # as a person: CPython misses a signal between the prompt and readline's own wait
        os.write(self._descriptor, text.encode() if text == "\x03" else f"{text}\n".encode())
        return self

    def ends(self) -> int:
        """Read to the end; the exit code."""
        self._read(until=lambda: False, what="the end")
        _pid, status = os.waitpid(self._pid, 0)
        os.close(self._descriptor)
        return os.waitstatus_to_exitcode(status)

    def _read(self, *, until: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not until():
            if time.monotonic() > deadline:
                os.kill(self._pid, signal.SIGKILL)
                raise AssertionError(f"{what!r} was not shown; seen: {self.seen}")
            if not select.select([self._descriptor], [], [], 0.5)[0]:
                continue
            try:
                part = os.read(self._descriptor, 65536)
            except OSError:  # Linux: the other side is closed
                return
            if not part:
                return
            self.seen += part.decode(errors="replace")
