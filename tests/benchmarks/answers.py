"""From handing in to the answer: what one caller waits for, and what a thousand cost who wait in one process."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from stageflow_durable import Engine, Submission
from stageflow_durable.state.driver import Driver
from tests.benchmarks.answered_app import application, asked
from tests.benchmarks.cpu import seconds_of
from tests.benchmarks.pipelines import name_of, slept
from tests.benchmarks.sides import PATIENCE, Durable
from tests.benchmarks.worker import Group

WARM = 20
WATCHED = 5.0
"""Seconds for which those who wait are watched, before the first of their runs ends."""

PAGE, PAUSE = 8192, 0.003
"""Bytes of a flush; seconds between two, as between the commits of a run."""

SOONEST, WITHIN = 10.0, 20.0
"""Runs end from so many seconds after they were handed in, at random within so many."""


@dataclass(frozen=True, slots=True)
class Answers:
    """``waited_ms``: for each answer. ``cpu_ms``: an answer, of the caller, the worker and the servers together: on a
    busy machine every process that takes part waits for its turn, and that shows in the times alone.
    """

    waited_ms: list[float]
    cpu_ms: float


def _answers(ask: Callable[[], object], times: int, spent: Callable[[], float]) -> Answers:
    """So many calls, one after the other, once connections are open. ``spent``: seconds of CPU of the others so far."""
    for _ in range(WARM):
        ask()
    took = []
    cpu = spent() + time.process_time()
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    cpu = spent() + time.process_time() - cpu
    return Answers(took, 1000 * cpu / times)


class BareAnswers:
    """Bare tasks and chains, whose caller waits for their results; a worker of its own. ``broker``: its process id."""

    def __init__(self, worker: Group, broker: int, url: str) -> None:
        self._worker = worker
        self._broker = broker
        self._sender = application(url)

    def answers(self, length: int, times: int) -> Answers:
        """Of one task, or of chains of that many."""
        self._worker.resume()
        try:
            return _answers(lambda: asked(self._sender, length).apply_async().get(timeout=PATIENCE), times, self._spent)
        finally:
            self._worker.pause()

    def _spent(self) -> float:
        return seconds_of(self._worker.pid) + seconds_of(self._broker)

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


def durable(side: Durable, length: int, times: int) -> Answers:
    """From ``enqueue`` to ``result()``, of runs of that many stages."""
    with side.awake() as engine:
        ask = lambda: engine.enqueue(name_of(length), {"n": length}).result(timeout=PATIENCE)  # noqa: E731  # used once
        return _answers(ask, times, lambda: sum(side.cpu()))


def flush_ms(directory: Path, times: int) -> list[float]:
    """Milliseconds of each of so many flushes of one page to the disk, as each commit waits for one."""
    took = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(times):
            os.pwrite(file.fileno(), b"x" * PAGE, 0)
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(1000 * (time.perf_counter() - began))
            time.sleep(PAUSE)  # one flush does not meet the next
    return took


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
