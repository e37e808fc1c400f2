"""How fast work is handed in, with nobody at work: ours is durable when it returns, the chain is a message."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from redis import Redis

from stageflow_durable import Engine, Submission
from tests.benchmarks.bare_app import QUEUE, application, chain_of
from tests.benchmarks.pipelines import name_of

LINKS = 10
BATCH = 1000


@dataclass(frozen=True, slots=True)
class Handed:
    """Submissions a second, and milliseconds of this process's CPU for each."""

    rate: float
    cpu_ms: float


class Submissions:
    """Runs and chains of ten, submitted from this process; each measurement leaves the queue empty."""

    def __init__(self, engine: Engine, client: Redis, broker_url: str, database_url: str) -> None:
        self._engine = engine
        self._client = client
        self._sender = application(broker_url)
        self._raw = psycopg.connect(database_url.replace("+psycopg", ""), autocommit=True)
        self._raw.execute("CREATE TABLE raw (text text NOT NULL)")

    def enqueue(self, count: int) -> Handed:
        """Runs, one by one."""
        name, queue = name_of(LINKS), self._engine.settings.queue
        return self._into(queue, lambda: self._engine.enqueue(name, {"n": 1}), count)

    def enqueue_many(self, batches: int) -> Handed:
        """Runs in batches of a thousand."""
        batch = [Submission({"n": number}) for number in range(BATCH)]
        name, queue = name_of(LINKS), self._engine.settings.queue
        return self._into(queue, lambda: self._engine.enqueue_many(name, batch), batches, each=BATCH)

    def apply_async(self, count: int) -> Handed:
        """One chain that was built before, again and again."""
        return self._into(QUEUE, self._chain().apply_async, count)

    def build_and_apply(self, count: int) -> Handed:
        """Chains, each built for itself."""
        return self._into(QUEUE, lambda: self._chain().apply_async(), count)

    def commit(self, count: int) -> Handed:
        """Rows of 1 KB, each committed: what the disk and the database allow one caller."""
        return _paced(lambda: self._raw.execute("INSERT INTO raw VALUES (%s)", ["x" * 1000]), count)

    def _chain(self) -> Any:
        return chain_of(self._sender, LINKS, "number")

    def _into(self, queue: str, submit: Callable[[], object], count: int, each: int = 1) -> Handed:
        handed = _paced(submit, count, each)
        # The list alone: without its bindings the queue would take no more messages, and say nothing.
        arrived: Any = self._client.llen(queue)
        self._client.delete(queue)
        if arrived != (count + 1) * each:
            raise RuntimeError(f"{arrived} of {(count + 1) * each} messages arrived in {queue}")
        return handed

    def close(self) -> None:
        """Give back connections."""
        self._engine.close()
        self._sender.close()
        self._client.close()
        self._raw.close()


def _paced(submit: Callable[[], object], count: int, each: int = 1) -> Handed:
    submit()
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        submit()
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    return Handed(count * each / took, 1000 * cpu / (count * each))
