"""Which process a number in a file means: pids are used again, and start from one after a reboot.

A process is known by its pid, the moment it started and the boot of the machine. Linux tells all three in /proc, other
systems by ``ps`` and ``sysctl``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one boot: ``started`` is the kernel's word for when, to be compared, not read."""

    pid: int
    started: str
    boot: str

    def lives(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return identify(self.pid) == self


def identify(pid: int) -> Identity | None:
    """The process that has this pid now, or None."""
    started = _started(pid)
    return Identity(pid, started, boot()) if started else None


def myself() -> Identity:
    """This process."""
    identity = identify(os.getpid())
    assert identity is not None  # it runs this line
    return identity


@cache
def boot() -> str:
    """A word that differs from one boot of the machine to the next."""
    linux = _PROC / "sys/kernel/random/boot_id"
    return linux.read_text().strip() if linux.exists() else _output("sysctl", "-n", "kern.bootsessionuuid")


def _started(pid: int) -> str:
    return _started_linux(pid) if sys.platform == "linux" else _started_elsewhere(pid)


def _started_linux(pid: int) -> str:
    try:
        # The name, second, is in parentheses and may hold anything; state and start time follow it.
        after_name = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if after_name[0] in "ZX" else after_name[19]


def _started_elsewhere(pid: int) -> str:
    state, _, started = _output("ps", "-o", "state=,lstart=", "-p", str(pid)).partition(" ")
    return "" if state.startswith("Z") else started.strip()


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
