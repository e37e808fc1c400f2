"""The application of the chaos tests with a twist, which the environment variable VARIANT names."""

from __future__ import annotations

import itertools
import os
import random
import signal
from typing import Any

from celery.signals import after_task_publish, before_task_publish

from stageflow_durable import Engine
from stageflow_durable.clock import SystemClock, World
from stageflow_durable.delivery import shapes
from stageflow_durable.delivery.configure import ADVANCE
from tests.chaos.app import PIPELINES
from tests.integration.apps.ledger import Ledger

MAIN = os.getpid()
VARIANT = os.environ.get("VARIANT", "")
LINKS_THAT_KILL = 3
STUMBLES = 30


class Shifted(SystemClock):
    """A clock that is wrong."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        """Wrong."""
        return super().time() + self._seconds


def _die(when: str, sender: Any) -> None:
    """At the first messages to our task that a pool child sends; the main process may send some too."""
    number = (
        next((n for n in range(LINKS_THAT_KILL) if Ledger.here().first(f"{when}-{n}")), None)
        if (sender == ADVANCE and os.getpid() != MAIN)
        else None
    )
    if number is not None:
        os.kill(os.getpid(), signal.SIGKILL)


SHIFTS = {"an hour ahead": 3600.0, "an hour behind": -3600.0}
world = World(Shifted(SHIFTS[VARIANT]), random.Random().uniform) if VARIANT in SHIFTS else None
# The next release of a pipeline that is under way: its second stage has another name, or only its last one has.
EDITED = {
    "its second stage is gone": ("s1", "s2b", "s3"),
    "its last stage is another": ("s1", "s2", "s4"),
}


def _edited(stages: tuple[str, ...]) -> Any:
    from stageflow_durable import Pipeline
    from tests.integration.apps.script import body, undo

    pipeline: Pipeline[Any, Any] = Pipeline("three", version="2")
    for stage in stages:
        pipeline = pipeline.stage(stage, body, compensate=undo)
    return pipeline


pipelines = (*(p for p in PIPELINES if p.name != "three"), _edited(EDITED[VARIANT])) if VARIANT in EDITED else PIPELINES
engine = Engine("chaos", pipelines, world=world)
celery_app = engine.celery_app

if VARIANT == "cold":
    celery_app.conf.worker_soft_shutdown_timeout = 0.0
if VARIANT == "used before the fork":
    engine.runs()
    engine.sweep()
if VARIANT == "dies before it publishes":
    before_task_publish.connect(lambda sender=None, **_: _die("before", sender), weak=False)
if VARIANT == "dies after it published":
    after_task_publish.connect(lambda sender=None, **_: _die("after", sender), weak=False)
if VARIANT == "stumbles":
    _envelope, _looks = shapes.envelope, itertools.count(1)

    def _stumbling(raw: Any) -> str | None:
        """Our own mistake, in the parent's event loop: at every third message for a while."""
        look = next(_looks)
        if look % 3 == 0 and look <= STUMBLES:
            raise AttributeError("a mistake of ours")
        return _envelope(raw)

    shapes.envelope = _stumbling
if VARIANT == "sends everything twice":
    _send = celery_app.amqp.send_task_message

    def _twice(*arguments: Any, **named: Any) -> Any:
        _send(*arguments, **named)
        return _send(*arguments, **named)

    celery_app.amqp.send_task_message = _twice
