"""One Celery worker of two children as a process group of its own, stopped while it is not its turn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.services.process import end_group, signal_group, spawn

ROOT = Path(__file__).parents[2]
CHILDREN = 2
OPTIONS = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "WARNING")


class Worker:
    """A running worker; ``close`` ends its whole group, whatever state it is in."""

    def __init__(self, app: str, environment: Mapping[str, str], directory: Path) -> None:
        self._log = directory / f"{app}-{len(list(directory.iterdir()))}.log"
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--concurrency", str(CHILDREN), *OPTIONS]
        with self._log.open("ab") as log:
            self._process = spawn(command, env=_clean(environment), cwd=ROOT, stdout=log)

    @property
    def pid(self) -> int:
        """The parent's process id; its group has the same."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the parent lives, paused or not."""
        return self._process.poll() is None

    def log(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-3000:]

    def pause(self) -> None:
        """SIGSTOP to parent and children."""
        signal_group(self._process, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        signal_group(self._process, signal.SIGCONT)

    def close(self) -> None:
        """End the group."""
        end_group(self._process)


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the settings of the shell, and with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGEFLOW_")}
    return {**kept, **environment, "PYTHONPATH": str(ROOT)}
