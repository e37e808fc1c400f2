"""What processes hold in memory."""

from __future__ import annotations

from tests.benchmarks.cpu import PROC, family_of


def resident_mb(root: int) -> float:
    """Resident megabytes of a process and its descendants; pages that they share count for each."""
    return sum(map(_resident_kb, family_of(root))) / 1024


def _resident_kb(pid: int) -> int:
    try:
        lines = (PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)
