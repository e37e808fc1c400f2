"""What takes part: our runs and bare chains, each with a worker, a database and a broker database of its own.

All are measured the same way: wake the worker and let it do a few runs (connections open, statements prepared, leases
renewed), stop it by SIGSTOP, enqueue everything, let it go on, and take the time until the last one is finished.
"""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row
from redis import Redis

from stageflow_durable import Engine
from stageflow_durable.model.status import AT_REST
from tests.benchmarks.bare_app import DONE, application, chain_of
from tests.benchmarks.cpu import seconds_of
from tests.benchmarks.history import WAL, sizes, written
from tests.benchmarks.lateness import late_s
from tests.benchmarks.memory import resident_mb
from tests.benchmarks.pipelines import FAILED, PARKED, PIPELINES, UNDONE, name_of
from tests.benchmarks.worker import Group
from tests.services.process import eventually

WARM_RUNS = 10
PATIENCE = 90.0
"""Seconds after which a measurement has failed."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Stages a second, and milliseconds of CPU a stage: of the worker with its children, and of database and broker."""

    rate: float
    worker_ms: float
    services_ms: float


class Side(ABC):
    """One way to carry lines of stages. ``services``: process ids of the servers that it uses."""

    def __init__(self, worker: Group, services: tuple[int, ...]) -> None:
        self.worker = worker
        self._services = services
        worker.pause()

    @abstractmethod
    def enqueue(self, length: int) -> None:
        """Start one line of that many stages."""

    @abstractmethod
    def finished(self) -> int:
        """How many have come to their end so far."""

    def pace(self, length: int, lines: int) -> Pace:
        """How it does that many lines, warm."""
        with self._awake():
            self._run(10, WARM_RUNS)
            return self._run(length, lines)

    @contextmanager
    def _awake(self) -> Iterator[None]:
        self.worker.resume()
        time.sleep(0.3)  # a lease that ran out meanwhile is renewed before the first message
        try:
            yield
        finally:
            self.worker.pause()

    def _run(self, length: int, lines: int) -> Pace:
        self.worker.pause()
        until = self.finished() + lines
        for _ in range(lines):
            self.enqueue(length)
        worker, services = self.cpu()
        self.worker.resume()
        took, stages = self._until(until), length * lines
        after = self.cpu()
        return Pace(stages / took, 1000 * (after[0] - worker) / stages, 1000 * (after[1] - services) / stages)

    def _until(self, count: int) -> float:
        began = time.perf_counter()
        while self.finished() < count:
            if time.perf_counter() > began + PATIENCE or not self.worker.running:
                raise RuntimeError(f"{count - self.finished()} lines are not finished:\n{self.worker.log()}")
            time.sleep(0.01)
        return time.perf_counter() - began

    def cpu(self) -> tuple[float, float]:
        """Seconds of CPU so far: of the worker with its children, and of database and broker."""
        return seconds_of(self.worker.pid), sum(map(seconds_of, self._services))

    def close(self) -> None:
        """End the worker."""
        self.worker.close()


class Durable(Side):
    """Our runs, by a worker of that many ``children``. ``url``: of their database, whichever it is."""

    def __init__(self, worker: Group, services: tuple[int, ...], engine: Engine, url: str, children: int) -> None:
        self._engine = engine
        self.url = url
        self._look, self._ask = _opened(url)
        # Stopped in the middle of registering the pipelines, each would keep us from it until the server ends it.
        eventually(lambda: self._joined() >= children, within=PATIENCE, what="each child has joined")
        super().__init__(worker, services)

    def _joined(self) -> int:
        found: Any = self._ask("SELECT count(*) FROM stageflow_owners").fetchone()
        return int(found[0])

    def enqueue(self, length: int) -> None:
        """One run."""
        self._engine.enqueue(name_of(length), {"n": length})

    def finished(self) -> int:
        """Runs that succeeded; there is nothing that could fail."""
        found: Any = self._ask("SELECT count(*) FROM stageflow_runs WHERE status = 'succeeded'").fetchone()
        return int(found[0])

    def one_finished(self) -> str:
        """The id of a run that succeeded."""
        found: Any = self._ask("SELECT id FROM stageflow_runs WHERE status = 'succeeded' LIMIT 1").fetchone()
        return str(found[0])

    def one_of_each(self) -> dict[str, str]:
        """Carry one run of each way to end to it; ids by pipeline."""
        pipelines = (name_of(1), name_of(10), FAILED.name, UNDONE.name, PARKED.name)
        runs = {name: self._engine.enqueue(name, {"n": 1}, idempotency_key="1") for name in pipelines}
        with self._awake():
            eventually(lambda: all(run.status() in AT_REST for run in runs.values()), within=PATIENCE, what="all end")
        return {name: run.run_id for name, run in runs.items()}

    def growth(self, length: int, lines: int) -> dict[str, float]:
        """Bytes by table that a run leaves for good, and what it writes to the log; what a vacuum gives back to the
        next runs is not counted.
        """
        assert isinstance(self._look, psycopg.Connection)
        self.pace(length, lines)
        before = sizes(self._look)
        runs, log = self.finished(), written(self._look)
        self.pace(length, lines)
        runs, log = self.finished() - runs, written(self._look) - log
        by_table = {table: (size - before[table]) / runs for table, size in sizes(self._look).items()}
        return {**by_table, WAL: log / runs}

    def resident_mb(self) -> float:
        """What the worker and its children hold in memory."""
        return resident_mb(self.worker.pid)

    @contextmanager
    def awake(self) -> Iterator[Engine]:
        """The worker works; gives the engine that enqueues."""
        with self._awake():
            yield self._engine

    def late_s(self, runs: int, within: float) -> list[float]:
        """Seconds by which so many waits, due at random within so many seconds, are late."""
        with self._awake():
            return late_s(self._engine, self._ask, runs, within)

    def close(self) -> None:
        """End the worker, give back connections."""
        super().close()
        self._look.close()
        self._engine.close()


def _opened(url: str) -> tuple[psycopg.Connection[Any] | sqlite3.Connection, Callable[[str], Any]]:
    if url.startswith("sqlite"):
        lite = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        return lite, lite.execute
    server = psycopg.connect(url.replace("+psycopg", ""), autocommit=True, row_factory=tuple_row)
    return server, lambda statement: server.execute(statement.encode())


class Bare(Side):
    """Chains of Celery; ``link`` names what is passed on: ``"number"`` or ``"kilobyte"``."""

    def __init__(self, worker: Group, services: tuple[int, ...], client: Redis, url: str) -> None:
        super().__init__(worker, services)
        self.link = "number"
        self._client = client
        self._sender = application(url)

    def enqueue(self, length: int) -> None:
        """One chain."""
        chain_of(self._sender, length, self.link).apply_async()

    def finished(self) -> int:
        """Chains whose last link was called."""
        counted: Any = self._client.get(DONE)
        return int(counted or 0)

    def passing(self, link: str) -> Bare:
        """This side with that link from now on."""
        self.link = link
        return self

    def close(self) -> None:
        """End the worker, give back connections."""
        super().close()
        self._client.close()
        self._sender.close()


def engine_of(database_url: str, broker_url: str, **settings: Any) -> Engine:
    """An engine for enqueuing from this process."""
    return Engine("bench", PIPELINES, database_url=database_url, broker_url=broker_url, **settings)
