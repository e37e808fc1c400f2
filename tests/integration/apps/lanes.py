"""The worker application of the engine's integration tests: lines of scripted stages."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from stageflow_durable import ConcurrencyLimit, Engine, Pipeline, RetryPolicy
from tests.integration.apps.ledger import Entry, Ledger
from tests.integration.apps.script import body, undo

SOON = RetryPolicy(max_attempts=3, base_delay=0.1, max_delay=0.2, jitter="none")


def line(name: str, length: int, retry: RetryPolicy = SOON) -> Pipeline[Any, Any]:
    """Stages s1, s2, … in a row, each with an undo."""
    pipeline: Pipeline[Any, Any] = Pipeline(name, retry=retry)
    for number in range(1, length + 1):
        pipeline = pipeline.stage(f"s{number}", body, compensate=undo)
    return pipeline


TEN = line("ten", 10)
THREE = line("three", 3)
ONE = line("one", 1)


def _until(ctx: Any) -> datetime:
    return datetime.fromtimestamp(ctx.input["until"], UTC)


ASLEEP = line("asleep", 1).sleep("nap", until=_until).stage("s2", body, compensate=undo)
WAITING = line("waiting", 1).wait_for("word", timeout=3600).stage("s2", body, compensate=undo)
BRIEFLY = line("briefly", 1).wait_for("word", timeout=0.5).stage("s2", body, compensate=undo)


def _behind(ctx: Any) -> Any:
    """A body that looks at no output before."""
    return body(replace(ctx, snapshot=replace(ctx.snapshot, outputs={})))


def _release(ctx: Any) -> dict[str, Any]:
    """What is to be approved. As a body it may die, here before it has said so."""
    return {"release": body(ctx)["token"] and ctx.run_id}


APPROVED = line("approved", 1).approve("release", _release, separation=False).stage("s2", _behind, compensate=undo)


def _crowded(ctx: Any) -> None:
    """Say when it comes and goes, by the clock of the whole machine."""
    ledger = Ledger.here()
    for kind, nap in (("in", 0.15), ("out", 0.0)):
        now = str(time.monotonic())
        ledger.write(Entry(kind, ctx.run_id, ctx.stage, ctx.attempt, ctx.idempotency_key, now, os.getpid()))
        time.sleep(nap)


CROWDED = Pipeline[Any, Any]("crowded").stage("s1", _crowded, limits=[ConcurrencyLimit("crowd", 10)])
PIPELINES = (TEN, THREE, ONE, ASLEEP, WAITING, BRIEFLY, APPROVED, CROWDED)

engine = Engine("lanes", PIPELINES)
celery_app = engine.celery_app
