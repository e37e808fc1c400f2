"""How late a wait is: retries and sleeps that are due at random moments."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from stageflow_durable import Engine, Submission
from tests.benchmarks.pipelines import RETRIED, slept
from tests.services.process import eventually

SOONEST = 15.0
"""Seconds from now that nothing is due before: all runs have come to their waits by then."""

_RETRIED = """SELECT again.began_at - first.ended_at - first.delay
    FROM stageflow_runs r JOIN stageflow_attempts first ON first.run = r.id AND first.n = 1
    JOIN stageflow_attempts again ON again.run = r.id AND again.n = 2
    WHERE r.pipeline = 'retried' AND r.status = 'succeeded' AND r.created_at >= {since}"""
_SLEPT = """SELECT next.began_at - (r.input::json ->> 'until')::float
    FROM stageflow_runs r JOIN stageflow_attempts next ON next.run = r.id
    WHERE r.pipeline = 'slept' AND next.stage = 's0' AND r.status = 'succeeded' AND r.created_at >= {since}"""


def late_s(engine: Engine, ask: Callable[[str], Any], runs: int, within: float) -> list[float]:
    """Seconds by which the stages of ``runs`` waits begin late, half retries and half sleeps, due at random within so
    many seconds.
    """
    since, chance = time.time(), random.Random(16)
    due = [SOONEST + chance.uniform(0, within) for _number in range(runs // 2)]
    engine.enqueue_many(RETRIED.name, [Submission({"seconds": seconds}) for seconds in due])
    engine.enqueue_many(slept().name, [Submission({"until": since + seconds}) for seconds in due])
    found: list[float] = []

    def all_came() -> bool:
        rows = [*ask(_RETRIED.format(since=since)).fetchall(), *ask(_SLEPT.format(since=since)).fetchall()]
        found[:] = [float(row[0]) for row in rows]
        return len(found) == 2 * len(due)

    eventually(all_came, within=within + 120, what="every wait is over", every=0.5)
    return found
