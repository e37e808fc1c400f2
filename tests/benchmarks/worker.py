"""Workers as process groups of their own, stopped while it is not their turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.services.process import end_group, signal_group, spawn

ROOT = Path(__file__).parents[2]
CHILDREN = 2
OPTIONS = ("--without-gossip", "--without-mingle", "--without-heartbeat")


class Group:
    """A process with its children, which logs to a file; ``close`` ends them all, whatever state they are in."""

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path
    ) -> None:
        self._log = directory / f"{name}-{uuid.uuid4().hex}.log"
        with self._log.open("ab") as log:
            self._process = spawn(command, env=clean(environment), cwd=ROOT, stdout=log)

    @property
    def pid(self) -> int:
        """The parent's process id; its group has the same."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the parent lives, paused or not."""
        return self._process.poll() is None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The parent."""
        return self._process

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


class Worker(Group):
    """A Celery worker; ``talks``: it says when it is ready."""

    def __init__(
        self,
        app: str,
        environment: Mapping[str, str],
        directory: Path,
        *,
        talks: bool = False,
        children: int = CHILDREN,
    ) -> None:
        options = (*OPTIONS, "--loglevel", "INFO" if talks else "WARNING", "--hostname", f"{uuid.uuid4().hex}@bench")
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "--concurrency", str(children), *options]
        super().__init__(app, command, environment, directory)

    def ready(self) -> bool:
        """Whether it has said so. Raises RuntimeError when it has ended instead."""
        if not self.running:
            raise RuntimeError(self.log())
        return "ready." in self.log()


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """Our environment without the settings of the shell, and with those given."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STAGEFLOW_")}
    return {**kept, **environment, "PYTHONPATH": str(ROOT)}
