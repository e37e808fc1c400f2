"""A disk that can be filled: a small file system of its own, where this process may mount one."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest


class SmallDisk:
    """``megabytes`` of space at ``path``; skips the test where nobody may mount it."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
        try:
            mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("a small disk takes mount(8)")
        if mounted.returncode:
            pytest.skip(f"a small disk takes the right to mount one: {mounted.stderr.strip()}")

    def fill(self) -> None:
        """Take the last byte."""
        handle = os.open(self.path / "filler", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for piece in (1 << 16, 1 << 12, 1):
                with suppress(OSError):  # no space is left for this much
                    while True:
                        os.write(handle, b"x" * piece)
        finally:
            os.close(handle)

    def free(self) -> None:
        """Give it back."""
        (self.path / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        """Take the disk away, whoever still looks at it."""
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)
