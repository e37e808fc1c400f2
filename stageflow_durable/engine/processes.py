"""What proves that a process has ended, seen from another one on its host (Linux).

A process is named by its machine's boot, its PID namespace, its number and the moment it started. Whoever shares the
first two can look: no process of that number, or one that started at another moment, means that it has ended. Nothing
is concluded from what cannot be seen: across namespaces (most containers) or hosts somebody else has to confirm.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from stageflow_durable.store.values import Awaited, Mark

HOST_NAMESPACE = 4026531836
"""The inode of the PID namespace that a machine starts with (PROC_PID_INIT_INO)."""

PROC = Path("/proc")
_ENDED = frozenset("ZX")
"""States of a process that is gone but for its exit code."""


def mark_of(pid: int) -> Mark:
    """What names this machine, this boot with its PID namespace, and that process; None where it cannot be told."""
    return Mark(_machine(), kernel(), _born(pid))


def has_ended(owner: Awaited, host: str) -> bool:
    """Whether the process of an owner is proved to have ended. ``host``: this machine's name."""
    here = kernel()
    if here is None or owner.kernel is None or owner.born is None:
        return False
    if owner.kernel == here:
        return _is_gone(owner.pid, owner.born)
    return _was_booted_since(owner, host, here)


def _is_gone(pid: int, born: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is another user's: it exists
    state, started = _stat(pid)
    if started is None:
        return False  # hidden from us
    return started != born or state in _ENDED


def _was_booted_since(owner: Awaited, host: str, here: str) -> bool:
    """Whether this is the owner's machine after a boot. Only outside of containers: a name and an image's machine id
    are no proof of a machine, for a container of the same name may still run on another one.
    """
    boot, _slash, namespace = here.partition("/")
    their_boot, _slash, their_namespace = owner.kernel.partition("/") if owner.kernel else ("", "", "")
    on_hosts = namespace == their_namespace == str(HOST_NAMESPACE)
    machine = _machine()
    same = machine is not None and (owner.machine, owner.host) == (machine, host)
    return on_hosts and same and boot != their_boot


def _machine() -> str | None:
    found = _read(Path("/etc/machine-id"))
    return hashlib.sha256(found.encode()).hexdigest()[:32] if found else None  # the id itself is confidential


def kernel() -> str | None:
    """This machine's boot and the PID namespace of this process."""
    boot = _read(PROC / "sys/kernel/random/boot_id")
    try:
        namespace = (PROC / "self/ns/pid").stat().st_ino
    except OSError:
        return None
    return f"{boot}/{namespace}" if boot else None


def _born(pid: int) -> str | None:
    return _stat(pid)[1]


def _stat(pid: int) -> tuple[str | None, str | None]:
    """The state of a process, and when it started, in ticks since the boot."""
    found = _read(PROC / str(pid) / "stat")
    # The name in parentheses may hold anything, parentheses too.
    values = found.rpartition(")")[2].split() if found else []
    return (values[0], values[19]) if len(values) > 19 else (None, None)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
