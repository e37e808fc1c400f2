"""The processes of the demo: services that hand over their port, and workers that are started again when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stageflow_durable.embedded import children

SERVICE_MODULE = "stageflow_durable.demo.services"
APP_MODULE = "stageflow_durable.demo.shop"

GRACE_SECONDS = 8.0
MOST_UNASKED_DEATHS = 3


class ServiceProcess:
    """One outside service; it ends by itself when this process does."""

    def __init__(self, name: str, home: Path, seed: int) -> None:
        self.name = name
        self.ledger = home / f"{name}.db"
        self._log = home / f"{name}.log"
        command = [sys.executable, "-m", SERVICE_MODULE, name, "--ledger", str(self.ledger), "--seed", str(seed)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        self.url = f"http://127.0.0.1:{self._port()}"

    def _port(self) -> int:
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line.strip():
            self.close()
            raise RuntimeError(f"the {self.name} service did not start; see {self._log}")
        return int(line)

    def close(self) -> None:
        """Close its standard input, which ends it, and see that it has."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        children.kill(self._process)


class WorkerProcess:
    """``celery worker`` with a prefork pool, in a session of its own so that all of it can be killed at once."""

    def __init__(
        self,
        name: str,
        home: Path,
        environment: Mapping[str, str],
        concurrency: int = 2,
        *,
        app: str = APP_MODULE,
        options: Sequence[str] = (),
    ) -> None:
        self.name = name
        self._log = home / f"{name}.log"
        self._environment = environment
        self._command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker"),
            *("-n", f"{name}@%h", "-c", str(concurrency), "--loglevel", "INFO"),
            *("--without-gossip", "--without-mingle"),
            *options,
        ]
        self._killed = False
        self._unasked_deaths = 0
        self._process = self._start()

    def _start(self) -> children.Process:
        return children.spawn(self._command, log=self._log, environment=self._environment, at_our_death=signal.SIGTERM)

    @property
    def pid(self) -> int:
        """The main process, which leads the session."""
        return self._process.pid

    def owns(self, pid: int) -> bool:
        """Whether that process is alive and one of this worker's pool children."""
        with suppress(ProcessLookupError, PermissionError):
            return pid != self.pid and os.getsid(pid) == self.pid
        return False

    def kill(self) -> None:
        """SIGKILL to main process and children alike: what losing the machine looks like."""
        self._killed = True
        children.kill(self._process)

    def revive(self) -> bool:
        """Start it again if it died, as a supervisor would; whether it had. Raises RuntimeError when it keeps dying."""
        if self._process.poll() is None:
            return False
        children.kill_group(self.pid)  # children of a main process that died alone
        self._count_death()
        self._process = self._start()
        return True

    def _count_death(self) -> None:
        self._unasked_deaths += 0 if self._killed else 1
        self._killed = False
        if self._unasked_deaths > MOST_UNASKED_DEATHS:
            raise RuntimeError(f"{self.name} keeps dying by itself; see {self._log}")

    def ask_to_end(self) -> None:
        """SIGTERM: finish what is running, take nothing new."""
        with suppress(ProcessLookupError):
            self._process.terminate()

    def close(self) -> None:
        """End it, and everything it started."""
        children.end(self._process, within=GRACE_SECONDS)
