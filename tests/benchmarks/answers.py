"""From handing in to the answer: what one caller waits for, and what a thousand cost who wait in one process."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from stageflow_durable import Engine, Submission
from stageflow_durable.state.driver import Driver
from tests.benchmarks.answered_app import application, asked
from tests.benchmarks.pipelines import name_of, slept
from tests.benchmarks.sides import PATIENCE, Durable
from tests.benchmarks.worker import Group

WARM = 20
WATCHED = 5.0
"""Seconds for which those who wait are watched, before the first of their runs ends."""

SOONEST, WITHIN = 10.0, 20.0
"""Runs end from so many seconds after they were handed in, at random within so many."""


def waited_ms(ask: Callable[[], object], times: int) -> list[float]:
    """Milliseconds of each of so many calls, one after the other, once connections are open."""
    for _ in range(WARM):
        ask()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    return took


class BareAnswers:
    """Bare tasks and chains, whose caller waits for their results; a worker of its own."""

    def __init__(self, worker: Group, url: str) -> None:
        self._worker = worker
        self._sender = application(url)

    def waited_ms(self, length: int, times: int) -> list[float]:
        """Of one task, or of chains of that many."""
        self._worker.resume()
        try:
            return waited_ms(lambda: asked(self._sender, length).apply_async().get(timeout=PATIENCE), times)
        finally:
            self._worker.pause()

    def close(self) -> None:
        """End the worker, give back connections."""
        self._worker.close()
        self._sender.close()


@dataclass(frozen=True, slots=True)
class Waited:
    """``late_ms``: of each run, from its end to its caller. ``share``: of a core, while nothing ends; ``queries``: a
    second, meanwhile.
    """

    late_ms: list[float]
    share: float
    queries: float


def durable_ms(side: Durable, length: int, times: int) -> list[float]:
    """Milliseconds from ``enqueue`` to ``result()``, of runs of that many stages."""
    with side.awake() as engine:
        return waited_ms(lambda: engine.enqueue(name_of(length), {"n": length}).result(timeout=PATIENCE), times)


def many(side: Durable, callers: int) -> Waited:
    """So many callers in ``aresult()`` of one process."""
    with side.awake() as engine:
        return asyncio.run(_many(engine, callers))


async def _many(engine: Engine, callers: int) -> Waited:
    chance, since = random.Random(15), time.time()
    due = [since + SOONEST + chance.uniform(0, WITHIN) for _ in range(callers)]
    handles = await engine.aenqueue_many(slept().name, [Submission({"until": moment}) for moment in due])
    ended: dict[str, float] = {}

    async def wait(run: Any) -> None:
        await run.aresult(timeout=PATIENCE)
        ended[run.run_id] = time.time()

    waiting = [asyncio.ensure_future(wait(run)) for run in handles]
    await asyncio.sleep(max(0.0, since + SOONEST - WATCHED - 0.5 - time.time()))
    share, queries = await _watched()
    await asyncio.gather(*waiting)
    late = [1000 * (at - _end_of(engine, run_id)) for run_id, at in ended.items()]
    return Waited(late, share, queries)


async def _watched() -> tuple[float, float]:
    """The share of a core that this process takes, and its queries a second."""
    asked_for: list[int] = []
    rows = Driver.rows

    def counted(*given: Any) -> Any:
        asked_for.append(1)
        return rows(*given)

    with patch.object(Driver, "rows", counted):
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(WATCHED)
        cpu, took = time.process_time() - cpu, time.perf_counter() - began
    return cpu / took, len(asked_for) / took


def _end_of(engine: Engine, run_id: str) -> float:
    run = engine.store.facts(run_id)
    assert run is not None
    assert run.finished_at is not None
    return run.finished_at
