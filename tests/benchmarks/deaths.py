"""SIGKILL, and how long it takes until the stage runs elsewhere."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from redis import Redis

from stageflow_durable import Engine
from tests.benchmarks.held_app import AGAIN, BEGAN
from tests.benchmarks.worker import Worker
from tests.services.process import eventually, kill_group

PATIENCE = 60


class Deaths:
    """Two workers of which one dies at a time; a new one takes its place."""

    def __init__(self, engine: Engine, client: Redis, environment: Mapping[str, str], directory: Path) -> None:
        self._engine = engine
        self._client: Any = client
        self._start: Callable[[], Worker] = lambda: Worker(
            "tests.benchmarks.held_app", environment, directory, talks=True
        )
        self._workers: list[Worker] = []
        self._starting: list[Worker] = []

    def of_child(self) -> float:
        """Seconds from the end of a pool's child to the next call of its stage."""
        return self._seconds(lambda pid: os.kill(pid, signal.SIGKILL))

    def of_worker(self) -> float:
        """Seconds from the end of a worker with all its children to the next call of its stage, in another worker."""
        return self._seconds(self._kill)

    def _seconds(self, kill: Callable[[int], None]) -> float:
        self._fill()
        self._engine.enqueue("held", {})
        first = self._told(BEGAN)
        began = time.perf_counter()
        kill(first)
        second = self._told(AGAIN)
        took = time.perf_counter() - began
        if first == second:
            raise RuntimeError("the stage ran again in the process that was killed")
        return took

    def _fill(self) -> None:
        """Two workers that work."""
        self._replace()
        while self._starting:
            eventually(self._starting.pop().ready, within=PATIENCE, what="a worker is ready", every=0.1)

    def _replace(self) -> None:
        while len(self._workers) < 2:
            self._starting.append(self._start())
            self._workers.append(self._starting[-1])

    def _kill(self, child: int) -> None:
        group = os.getpgid(child)
        killed = next(worker for worker in self._workers if worker.pid == group)
        kill_group(killed.process)
        self._workers.remove(killed)
        self._replace()  # at once, as what supervises it would

    def _told(self, key: str) -> int:
        until = time.monotonic() + PATIENCE
        while (found := self._client.lpop(key)) is None:
            if time.monotonic() > until:
                raise RuntimeError("nobody took the stage:\n" + "\n".join(worker.log() for worker in self._workers))
            time.sleep(0.005)
        return int(found)

    def close(self) -> None:
        """End the workers, give back connections."""
        for worker in self._workers:
            worker.close()
        self._engine.close()
        self._client.close()
