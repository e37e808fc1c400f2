"""The processes of the demo: services that hand over their port, and workers that are started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

SERVICE_MODULE = "stageflow_durable.demo.services"
APP_MODULE = "stageflow_durable.demo.shop"

GRACE_SECONDS = 8.0


class ServiceProcess:
    """One outside service; it ends by itself when this process does."""

    def __init__(self, name: str, home: Path, seed: int) -> None:
        self.name = name
        self.ledger = home / f"{name}.db"
        command = [sys.executable, "-m", SERVICE_MODULE, name, "--ledger", str(self.ledger), "--seed", str(seed)]
        with (home / f"{name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self.url = f"http://127.0.0.1:{self._port(home)}"

    def _port(self, home: Path) -> int:
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line.strip():
            raise RuntimeError(f"the {self.name} service did not start; see {home / self.name}.log")
        return int(line)

    def close(self) -> None:
        """Ask it to end, and see that it has."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        _end(self._process)


class WorkerProcess:
    """``celery worker`` with a prefork pool, in a session of its own so that all of it can be killed at once."""

    def __init__(self, name: str, home: Path, environment: Mapping[str, str], concurrency: int = 2) -> None:
        self.name = name
        self._log = home / f"{name}.log"
        self._environment = {**os.environ, **environment}
        self._command = [
            *(sys.executable, "-m", "celery", "-A", APP_MODULE, "worker"),
            *("-n", f"{name}@%h", "-c", str(concurrency), "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle"),
        ]
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The main process, which leads the session."""
        return self._process.pid

    def owns(self, pid: int) -> bool:
        """Whether that process is alive and one of this worker's children."""
        with suppress(ProcessLookupError, PermissionError):
            return pid != self.pid and os.getsid(pid) == self.pid
        return False

    def kill(self) -> None:
        """SIGKILL to main process and children alike: what a machine that loses its power does."""
        _signal_session(self.pid, signal.SIGKILL)
        self._process.wait()

    def revive(self) -> bool:
        """Start it again if it died, as a supervisor would; whether it had."""
        if self._process.poll() is None:
            return False
        _signal_session(self.pid, signal.SIGKILL)  # children of a main process that died alone
        self._process = self._start()
        return True

    def ask_to_end(self) -> None:
        """SIGTERM: finish what is running, take nothing new."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> None:
        """End it, and everything it started."""
        self.ask_to_end()
        _end(self._process)
        _signal_session(self.pid, signal.SIGKILL)


def _signal_session(leader: int, number: int) -> None:
    # The session was made for this worker, so its process group holds nothing else.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
