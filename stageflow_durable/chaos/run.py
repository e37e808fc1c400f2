"""``stageflow chaos``: the whole of it, in the order in which it happens."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow_durable import Engine
from stageflow_durable.chaos.judge import Verdict, judge
from stageflow_durable.chaos.place import Options, Place, place
from stageflow_durable.clock import SystemClock
from stageflow_durable.demo.chaos import plan_blows
from stageflow_durable.demo.drive import drive
from stageflow_durable.demo.progress import Progress
from stageflow_durable.demo.scene import LiveScene

CLIENT = "chaos"
CLOCK = SystemClock()
LOOK_SECONDS = 0.05
"""Short beside a stage: a kill falls while one is at work, or it proves nothing."""


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: ``runs`` of ``pipeline`` with ``kills`` on the way, again and again for ``minutes`` (once
    where that is 0); ``patience``: seconds for each round to come to rest.
    """

    pipeline: str
    input: Any
    runs: int = 20
    kills: int = 6
    seed: int = 1
    minutes: float = 0.0
    patience: float = 120.0


def run_chaos(engine: Engine, reference: str, wish: Wish, *, app: str, options: Options, say: Say) -> Verdict:
    """Put a pipeline through it. ``app``: what ``celery -A`` takes, which finds the engine by ``reference``;
    ``options`` of its workers.

    Its directory is kept only when the promise was broken. Raises UnknownPipeline, InvalidInput naming the fields,
    ConfigurationError.
    """
    engine.pipeline(wish.pipeline)
    home = Path(tempfile.mkdtemp(prefix="stageflow-chaos-"))
    verdict: Verdict | None = None
    try:
        with place(home / "place", engine, reference, app, options) as stage:
            verdict = _perform(stage, wish, say)
    finally:
        if verdict is None or verdict.holds:
            shutil.rmtree(home, ignore_errors=True)
        else:
            say(f"database and logs are in {home / 'place'}")
    return verdict


def _perform(stage: Place, wish: Wish, say: Say) -> Verdict:
    began, accepted, kills, asked = CLOCK.monotonic(), list[str](), list[str](), 0
    until, turn = began + 60 * wish.minutes, 0
    while not turn or CLOCK.monotonic() < until:
        accepted += [_enqueue(stage, wish, f"{turn}-{number}") for number in range(wish.runs)]
        seed = wish.seed + turn
        blows = plan_blows(wish.kills, wish.runs, seed)
        shown = _Told(say, len(kills), began)
        scene = LiveScene(stage, random.Random(seed))  # noqa: S311  # chooses who is killed, no secret
        blows = [type(blow)(blow.after + len(accepted) - wish.runs, blow.target) for blow in blows]
        reached = drive(
            scene,
            len(accepted),
            blows,
            shown,
            patience=wish.patience,
            clock=CLOCK.monotonic,
            pause=CLOCK.sleep,
            look=LOOK_SECONDS,
        )
        kills += reached.kills
        asked += wish.kills
        turn += 1
        if not reached.done:
            break
    stage.stop_workers()
    there = {run.run_id for run in stage.runs()}
    found = ((stage.engine.run(one), stage.engine.history(one)) for one in accepted if one in there)
    seconds = CLOCK.monotonic() - began
    return judge(wish.pipeline, accepted, found, seed=wish.seed, kills=kills, seconds=seconds, asked=asked)


def _enqueue(stage: Place, wish: Wish, key: str) -> str:
    return stage.engine.enqueue(wish.pipeline, wish.input, client_id=CLIENT, idempotency_key=key).run_id


class _Told:
    """A line a kill, and one a second while nothing else is to be told."""

    def __init__(self, say: Say, before: int, began: float) -> None:
        self._say = say
        self._kills = 0
        self._before = before
        self._began = began
        self._at_rest = -1

    def show(self, progress: Progress) -> None:
        """One look."""
        seconds = CLOCK.monotonic() - self._began
        for kill in progress.kills[self._kills :]:
            self._say(f"{seconds:6.1f} s  {kill}")
        self._kills = len(progress.kills)
        if progress.done or progress.at_rest >= self._at_rest + max(1, progress.total // 5):
            self._say(f"{seconds:6.1f} s  {progress.at_rest} of {progress.total} runs at rest")
            self._at_rest = progress.at_rest
