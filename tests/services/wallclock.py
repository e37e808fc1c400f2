"""A machine's clock that a test may move, for the processes that are started with its environment."""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("wallclock.c")


class WallClock:
    """Right until :meth:`move`; skips the test where no C compiler is. Time that only passes (monotonic) stays as it
    is, as it does when a person or a time server sets the clock of a machine.
    """

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="sf-clock-"))
        self._directory.chmod(0o755)  # the database's user reads it as well
        self._file = self._directory / "offset"
        self._file.touch(0o644)
        self._file.write_bytes(struct.pack("=q", 0))
        self._library = self._directory / "wallclock.so"
        _compile(self._library)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that shall see this clock."""
        return {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._file)}

    def move(self, seconds: int) -> None:
        """Show the time that many seconds from now, at once, to every process."""
        with self._file.open("r+b") as file:  # in its place: they have mapped it
            file.write(struct.pack("=q", seconds))

    def close(self) -> None:
        """Forget it."""
        shutil.rmtree(self._directory)


def _compile(library: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("a clock that can be moved takes a C compiler (cc)")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE)], check=True)
