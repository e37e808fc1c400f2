"""Child processes that cannot outlive the test session.

Each child leads a process group of its own, so that one signal reaches its pool children too, and asks the kernel to
be killed when the process that started it dies, however that happens (Linux; elsewhere the fixtures clean up).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PR_SET_PDEATHSIG = 1
# Looked up once, here: between fork and exec a child must not import or load anything.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

Output = int | IO[bytes] | None


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: Output = None,
    stderr: Output = subprocess.STDOUT,
    user: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` as a group leader that dies with this process.

    Call it from the main thread: the kernel takes the death of the starting *thread* for the parent's. ``env``: the
    whole environment, or None for ours; ``user``: numeric id to run as, or None.
    """
    return subprocess.Popen(
        [str(word) for word in argv],
        env=None if env is None else dict(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        start_new_session=True,
        preexec_fn=_tie_to(os.getpid()),  # noqa: PLW1509  # it takes no lock and imports nothing
    )


def _tie_to(parent: int) -> Callable[[], None]:
    def tie() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return tie


def signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Send a signal to the whole group of ``process``; a group that is gone is fine."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the group and reap its leader."""
    signal_group(process, signal.SIGKILL)
    process.wait(timeout=30)


def end_group(process: subprocess.Popen[bytes], *, within: float = 5.0, first: signal.Signals = signal.SIGTERM) -> int:
    """Ask the leader to end with ``first``; after ``within`` seconds SIGKILL the group. Returns the exit status."""
    signal_group(process, signal.SIGCONT)
    if process.poll() is None:
        process.send_signal(first)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=within)
    kill_group(process)
    return process.returncode


@contextmanager
def reaped(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """However the block ends, the groups are killed, their leaders reaped and their pipes closed: what a test that
    fails leaves behind is told as the failure of a later one.
    """
    try:
        yield
    finally:
        for process in processes:
            with process:
                kill_group(process)


def eventually(check: Callable[[], object], *, within: float = 20.0, what: str = "", every: float = 0.02) -> None:
    """Return once ``check()`` is truthy; after ``within`` seconds fail with ``what`` was waited for."""
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or check}")
        time.sleep(every)


class Processes:
    """Children of one test, each logging to a file; all are killed when it ends.

    >>> worker = processes.start("worker", [sys.executable, "-m", "celery", …], env=…)
    >>> processes.log("worker")
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.all: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start ``argv``; its output is appended to ``<directory>/<name>.log``. ``env`` is added to ours."""
        with self.log_path(name).open("ab") as log:
            process = spawn(argv, env=os.environ | (env or {}), cwd=cwd, stdout=log)
        self.all.append(process)
        return process

    def log_path(self, name: str) -> Path:
        """Where the output of the child of that name goes."""
        return self.directory / f"{name}.log"

    def log(self, name: str) -> str:
        """What the child of that name has printed so far."""
        path = self.log_path(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """SIGKILL every group that was started here, stopped ones too."""
        for process in self.all:
            kill_group(process)
