"""CPU time of processes: what a busy machine does to a rate, it does not do to this."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")


def seconds_of(root: int) -> float:
    """User and system time of a process and its descendants so far; 0.0 where there is no /proc."""
    table = dict(_processes())
    return sum(table[pid][1] for pid in _family(root, table) if pid in table) / _TICKS


def family_of(root: int) -> set[int]:
    """A process and its descendants."""
    return _family(root, dict(_processes()))


def _family(root: int, table: Mapping[int, tuple[int, int]]) -> set[int]:
    family, more = set[int](), {root}
    while more:
        family |= more
        more = {pid for pid, (parent, _) in table.items() if parent in family} - family
    return family


def seconds_of_all() -> float:
    """Time that this machine's cores have worked so far, for whomever; 0.0 where there is no /proc."""
    try:
        fields = [int(field) for field in (PROC / "stat").read_text().partition("\n")[0].split()[1:]]
    except OSError:
        return 0.0
    user, nice, system, _idle, _waiting, *interrupts = fields
    return (user + nice + system + sum(interrupts[:3])) / _TICKS


def _processes() -> Iterator[tuple[int, tuple[int, int]]]:
    """Process id; its parent and its ticks, those of its ended children included."""
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        yield int(entry.parent.name), (int(fields[1]), sum(map(int, fields[11:15])))
