"""Many runs that wait at once: carried on after every worker died, due at one moment, named by a filter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from redis import Redis

from stageflow_durable import Engine, Submission
from tests.benchmarks.pipelines import name_of
from tests.benchmarks.worker import ROOT, Worker, clean
from tests.services.process import eventually, kill_group

BATCH = 1000
DUE_IN = 8.0
"""Seconds from when waits are written to when they are due: a worker that was stopped has its lease again by then."""
PATIENCE = 1800.0
LOOK_AGAIN = 0.25
"""Seconds between two counts, each of which reads every run."""

_FINISHED = "SELECT count(*) FROM stageflow_runs WHERE status = 'succeeded'"
_LAST_BEGUN = "SELECT max(began_at) FROM stageflow_attempts"
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::float"
_WAIT = """UPDATE stageflow_strands
    SET state = 'waiting', waiting_for = 'time', wake_at = %s, published_at = NULL, nudges = 0
    WHERE state = 'ready'"""


@dataclass(frozen=True, slots=True)
class Rates:
    """Runs a second before every worker died and the broker lost its messages, and afterwards."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Late:
    """Seconds until the last of many fresh runs began, and until the last of as many waits that were due at once."""

    fresh: float
    due: float


class Backlog:
    """Runs of one stage on a database of their own; ``start`` makes a worker."""

    def __init__(
        self,
        engine: Engine,
        database_url: str,
        client: Redis,
        environment: Mapping[str, str],
        start: Callable[[], Worker],
    ) -> None:
        self._engine = engine
        self._raw = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
        self._client = client
        self._environment = environment
        self._start = start
        self._workers: list[Worker] = []

    def drain(self, runs: int) -> Rates:
        """Kill every worker once a quarter is done, and empty the broker."""
        worker = self._worker()
        worker.pause()
        self._enqueue(runs, name_of(1))
        worker.resume()
        before = self._rate(worker, self._count(), runs // 4)
        kill_group(worker.process)
        self._client.flushdb()
        done = self._count()
        return Rates(before, self._rate(self._worker(), done, runs - done))

    def wait(self, runs: int) -> Late:
        """As many fresh runs first, then as many waits."""
        worker = self._worker()
        warm = min(BATCH, runs)
        self._rate(worker, self._enqueue(warm, name_of(1)), warm)  # connections are open, statements prepared
        worker.pause()
        done = self._enqueue(runs, name_of(1))
        began = self._number(_CLOCK)
        worker.resume()
        self._rate(worker, done, runs)
        fresh = self._number(_LAST_BEGUN) - began
        worker.pause()
        done = self._enqueue(runs, name_of(1))
        self._client.delete(self._engine.settings.queue)
        due = self._number(_CLOCK) + DUE_IN
        self._raw.execute(_WAIT, [due])
        worker.resume()
        self._rate(worker, done, runs)
        return Late(fresh, self._number(_LAST_BEGUN) - due)

    def dry_run_s(self, runs: int) -> float:
        """Seconds of ``stageflow cancel --dry-run`` by a filter that fits so many runs of ten stages."""
        self._enqueue(runs, name_of(10))
        self._client.flushdb()
        self._raw.execute("VACUUM ANALYZE")
        command = [
            sys.executable,
            "-m",
            "stageflow_durable.cli",
            "cancel",
            "--app",
            "tests.benchmarks.durable_app:engine",
        ]
        asked = ["--pipeline", name_of(10), "--dry-run", "--reason", "measured", "--actor", "bench"]
        began = time.perf_counter()
        ended = subprocess.run(
            [*command, *asked], env=clean(self._environment), cwd=ROOT, capture_output=True, text=True, check=True
        )
        took = time.perf_counter() - began
        if ended.stdout.count("would cancel") != runs:
            raise RuntimeError(f"it found {ended.stdout.count('would cancel')} of {runs} runs:\n{ended.stderr[-2000:]}")
        return took

    def _worker(self) -> Worker:
        worker = self._start()
        self._workers.append(worker)
        eventually(worker.ready, within=60, what="a worker is ready", every=0.1)
        return worker

    def _enqueue(self, runs: int, pipeline: str) -> int:
        """Returns how many were finished before."""
        done = self._count()
        for start in range(0, runs, BATCH):
            self._engine.enqueue_many(pipeline, [Submission({"n": n}) for n in range(start, min(start + BATCH, runs))])
        return done

    def _rate(self, worker: Worker, done: int, runs: int) -> float:
        """Runs a second until ``runs`` more than ``done`` are finished."""
        began = time.perf_counter()
        while (finished := self._count()) < done + runs:
            if time.perf_counter() > began + PATIENCE or not worker.running:
                raise RuntimeError(f"{done + runs - finished} runs are not finished:\n{worker.log()}")
            time.sleep(LOOK_AGAIN)  # the database tells nobody when a run is finished
        return (finished - done) / (time.perf_counter() - began)

    def _count(self) -> int:
        return int(self._number(_FINISHED))

    def _number(self, statement: str) -> float:
        found: Any = self._raw.execute(statement.encode()).fetchone()
        return float(found[0])

    def close(self) -> None:
        """End the workers, give back connections."""
        for worker in self._workers:
            worker.close()
        self._client.flushdb()
        self._client.close()
        self._raw.close()
        self._engine.close()
