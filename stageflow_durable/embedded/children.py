"""Child processes: started with a log file, tied to our life, ended within bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stageflow_durable.embedded import launch
from stageflow_durable.embedded.identity import Identity

Process = subprocess.Popen[bytes]
_LAUNCH = launch.__file__
LARGEST_LOG_BYTES = 10 * 1024 * 1024


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    at_our_death: signal.Signals,
    umask: int = -1,
) -> Process:
    """Start ``argv`` as leader of a session of its own, its output appended to ``log``.

    A session of its own: Ctrl-C in the terminal reaches us alone, and we stop the children in order. ``environment``
    is added to ours. ``umask``: of the files that it makes; -1: as ours. The kernel sends ``at_our_death`` when the
    *thread* that calls this ends: call it from one that stays.
    """
    _rotate(log)
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCH, str(os.getpid()), str(at_our_death.value), *argv],
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=umask,
        )


def end(process: Process, *, within: float) -> None:
    """SIGTERM to the leader; after ``within`` seconds SIGKILL to it and all that it started."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=within)
    kill(process)


def kill(process: Process) -> None:
    """SIGKILL to the group, and reap the leader."""
    kill_group(process.pid)
    process.wait()


def kill_group(leader: int) -> None:
    """SIGKILL to all that ``leader`` started and that is still there."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def end_orphan(orphan: Identity, *, within: float) -> None:
    """End a child of a process that died before it could."""
    if orphan.lives():
        with suppress(ProcessLookupError):
            os.kill(orphan.pid, signal.SIGTERM)
        wait_for_end(orphan, within=within)
    if orphan.lives():
        kill_group(orphan.pid)
        wait_for_end(orphan, within=within)


def wait_for_end(process: Identity, *, within: float) -> None:
    """Wait, at most ``within`` seconds, until a process that is not our child has ended."""
    import threading

    pause = threading.Event()
    for _ in range(int(within / 0.02)):
        if not process.lives():
            return
        pause.wait(0.02)


class Follower:
    """Reads a log file that grows: whole lines, each once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def lines(self) -> list[str]:
        """The lines that were completed since the last call."""
        if not self._path.exists() or self._path.stat().st_size <= self._offset:
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        # Nothing else ends a line: a carriage return in one may not hide what stands before it.
        return whole.decode(errors="replace").split("\n") if newline else []


def _rotate(log: Path) -> None:
    if log.exists() and log.stat().st_size > LARGEST_LOG_BYTES:
        log.replace(log.with_name(f"{log.name}.1"))
