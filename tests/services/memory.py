"""Memory that runs out: a control group with a limit, at which the kernel kills who is in it."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from tests.services.process import eventually

_ROOT = Path("/sys/fs/cgroup")


class MemoryLimit:
    """A group of processes that have ``megabytes`` together; skips the test where nobody may make one."""

    def __init__(self, megabytes: int) -> None:
        old = (_ROOT / "memory").is_dir()
        self._path = (_ROOT / "memory" if old else _ROOT) / f"sf-{os.getpid()}"
        self._kills = self._path / ("memory.oom_control" if old else "memory.events")
        limits = {"memory.limit_in_bytes" if old else "memory.max": megabytes << 20, "memory.swap.max": 0}
        try:
            self._path.mkdir()
            for name, value in limits.items():
                if (self._path / name).exists() or name in ("memory.limit_in_bytes", "memory.max"):
                    (self._path / name).write_text(str(value))
        except OSError as error:
            self.close()
            pytest.skip(f"a limit on memory takes rights on {_ROOT}: {error}")

    def hold(self, pid: int) -> None:
        """Put a process, and the children that it starts from now on, under the limit."""
        (self._path / "cgroup.procs").write_text(str(pid))

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed at the limit."""
        counts = dict(line.split() for line in self._kills.read_text().splitlines())
        return int(counts["oom_kill"])

    def close(self) -> None:
        """Give up the group; its processes have to be over, or about to be."""
        eventually(self._is_gone, what=f"{self._path} is empty")

    def _is_gone(self) -> bool:
        with suppress(OSError):  # the last of its processes is not over yet
            self._path.rmdir()
        return not self._path.exists()
