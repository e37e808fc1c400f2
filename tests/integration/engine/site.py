"""One engine with everything around it: database, broker, ledger, worker processes, a client in the test's process."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from stageflow_durable import Engine, RunHandle
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.state.schema import upgrade
from tests.integration.apps.lanes import PIPELINES
from tests.integration.apps.ledger import VARIABLE, Ledger
from tests.services.broker import BrokerService
from tests.services.process import end_group, eventually, kill_group, spawn

ROOT = Path(__file__).parents[3]
LEASE = 2.0
LANES = "tests.integration.apps.lanes"
QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "INFO")


class Worker:
    """A Celery worker with its children, in a process group of its own."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log_path = log
        self._argv = argv
        self._env = env
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("ab") as log:
            return spawn(self._argv, env=self._env, cwd=ROOT, stdout=log)

    @property
    def lives(self) -> bool:
        """Whether its main process lives."""
        return self.process.poll() is None

    def children(self) -> list[int]:
        """Its pool's processes."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True, check=False
        )
        return [int(pid) for pid in listed.stdout.split()]

    def revive(self) -> None:
        """Start it again if it died, as a supervisor would."""
        if not self.lives:
            kill_group(self.process)
            self.process = self._start()

    def kill(self) -> None:
        """SIGKILL the whole group."""
        kill_group(self.process)

    def stop(self, within: float = 15.0) -> int:
        """SIGTERM the main process; returns its exit status."""
        return end_group(self.process, within=within)

    def signal(self, number: signal.Signals) -> None:
        """Signal the main process and its children."""
        os.killpg(self.process.pid, number)

    def log(self) -> str:
        """What it printed."""
        return self.log_path.read_text(errors="replace")


class Site:
    """A place where runs run. ``settings`` are those of workers and client alike."""

    def __init__(self, directory: Path, database_url: str, broker: BrokerService, number: int, **settings: Any) -> None:
        self.directory = directory
        self.broker = broker
        self.number = number
        self.ledger = Ledger(directory / "ledger")
        self.settings: dict[str, Any] = {
            "database_url": database_url,
            "broker_url": broker.url_of(number),
            "redis_url": broker.url_of(number),
            "lease_seconds": LEASE,
            "sqlite_synchronous": "NORMAL",
            **settings,
        }
        self.workers: list[Worker] = []
        self._names = itertools.count(1)
        self.engine = self.client()

    def open(self) -> None:
        """An empty broker database and the schema."""
        with self.broker.client(self.number) as client:
            client.flushdb()
        upgrade(self.settings["database_url"])

    def client(self, **settings: Any) -> Engine:
        """A further engine in this process, to enqueue with."""
        return Engine("lanes", PIPELINES, **{**self.settings, **settings})

    def reconnect(self) -> None:
        """Look once over each connection to a database that was restarted: the first look finds that it is closed."""
        for look in (self.engine.runs, lambda: self.engine.store.outputs("")):
            with suppress(StoreUnavailable):
                look()

    def environment(self, **settings: Any) -> dict[str, str]:
        """The environment of a process that belongs here."""
        ambient = {name: value for name, value in os.environ.items() if not name.startswith("STAGEFLOW_")}
        theirs = settings.pop("their_broker", "")
        ours = {f"STAGEFLOW_{name.upper()}": str(value) for name, value in {**self.settings, **settings}.items()}
        return {
            **ambient,
            **ours,
            "THEIR_BROKER": theirs,
            VARIABLE: str(self.ledger.path),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "default",
        }

    def worker(
        self, app: str = LANES, *options: str, children: int = 2, flags: Sequence[str] = QUIET, **settings: Any
    ) -> Worker:
        """Start a worker."""
        name = f"w{next(self._names)}"
        argv = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            app,
            "worker",
            "-c",
            str(children),
            "-n",
            f"{name}@test",
            *flags,
            *options,
        ]
        self.workers.append(Worker(name, argv, self.environment(**settings), self.directory / f"{name}.log"))
        return self.workers[-1]

    def forget(self, *workers: Worker) -> None:
        """Kill workers that only one test needed."""
        for worker in workers:
            worker.kill()
            self.workers.remove(worker)

    # --- waiting ---------------------------------------------------------------------------------------------

    def until(self, check: Callable[[], object], what: str, *, within: float = 30.0, every: float = 0.05) -> None:
        """Wait for ``check()``; a failure shows the workers' logs."""

        def answered() -> object:
            try:
                return check()
            except StoreUnavailable:  # a test restarted it: the next look goes over a new connection
                return False

        try:
            eventually(answered, within=within, what=what, every=every)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.report()}") from None

    def nobody_lives(self) -> None:
        """Wait until the leases of workers that earlier tests killed have run out: till then they count as alive."""
        self.until(
            lambda: not any(worker.alive for worker in self.engine.workers()), "earlier tests' workers count as dead"
        )

    def ready(self, worker: Worker, within: float = 30.0) -> None:
        """Wait until a worker takes messages."""
        self.until(lambda: f"{worker.name}@test ready" in worker.log(), f"{worker.name} is ready", within=within)

    def at_rest(self, runs: Iterable[RunHandle], *, within: float = 30.0, revive: bool = False) -> Counter[RunStatus]:
        """Wait until all runs are at rest; returns how many are in which status. ``revive``: restart dead workers."""
        waiting = {run.run_id: run for run in runs}
        found: dict[str, RunStatus] = {}

        def check() -> bool:
            for worker in self.workers if revive else ():
                worker.revive()
            statuses = {run: waiting[run].status() for run in waiting.keys() - found.keys()}
            found.update({run: status for run, status in statuses.items() if status in AT_REST})
            return len(found) == len(waiting)

        self.until(check, f"{len(waiting)} runs are at rest", within=within, every=0.1)
        return Counter(found.values())

    def running(self, run: RunHandle, stage: str, *, bodies: int = 1, within: float = 20.0) -> None:
        """Wait until a stage's body was called ``bodies`` times."""
        self.until(
            lambda: self.ledger.bodies([run.run_id])[run.run_id, stage] >= bodies,
            f"{stage} of {run.run_id} runs",
            within=within,
        )

    # --- looking ---------------------------------------------------------------------------------------------

    def messages(self, queue: str = "stageflow-lanes") -> int:
        """How many messages wait in the broker."""
        with self.broker.client(self.number) as client:
            return int(client.llen(queue))

    def unacknowledged(self) -> int:
        """How many messages are with workers."""
        with self.broker.client(self.number) as client:
            return int(client.hlen("unacked"))

    def history(self, run: RunHandle, *kinds: str) -> list[Mapping[str, Any]]:
        """A run's events of some kinds, with their type and place."""
        return [
            {**event.data, "type": event.type, "seq": event.seq}
            for event in run.history()
            if not kinds or event.type in kinds
        ]

    def report(self) -> str:
        """The ends of the workers' logs, and runs that are not at rest."""
        standing = [run for run in self.engine.runs(limit=2000) if run.status not in AT_REST][:5]
        lines = [
            f"{run.run_id} {run.status} {[(e.type, dict(e.data)) for e in self.engine.history(run.run_id)[-6:]]}"
            for run in standing
        ]
        return "\n".join([*lines, *(f"--- {worker.name}\n{worker.log()[-3000:]}" for worker in self.workers)])

    def close(self) -> None:
        """End every process."""
        for worker in self.workers:
            kill_group(worker.process)
        self.engine.close()
