"""What is measured: lines of stages that do nothing and leave 1 KB each. And what ends otherwise, for a past."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from stageflow_durable import CompensationContext, PermanentError, Pipeline, RetryPolicy, StageContext, StageOutput

LENGTHS = (1, 10, 100, 1000)
PAD = 1000
"""Bytes of text in an output."""


def output() -> dict[str, str]:
    """What a body leaves, made anew each time as a real one would; the same on every side."""
    return {"pad": "x" * PAD}


def body(ctx: StageContext[Any]) -> dict[str, str]:
    """A no-op of kind WORK."""
    return output()


def line(length: int) -> Pipeline[Any, Any]:
    """``length`` stages, one after the other."""
    pipeline: Pipeline[Any, Any] = Pipeline(name_of(length))
    for number in range(length):
        pipeline = pipeline.stage(f"s{number}", body)
    return pipeline


def name_of(length: int) -> str:
    """The pipeline's name."""
    return f"line{length}"


def undo(ctx: CompensationContext[Any]) -> None:
    """There is nothing to undo."""


def refused(ctx: StageContext[Any]) -> None:
    """Fails for good."""
    raise PermanentError("refused")


def mistaken(ctx: StageContext[Any]) -> None:
    """Parks its run."""
    raise TypeError("a bug")


FAILED: Pipeline[Any, Any] = Pipeline("failed").stage("s0", refused)
UNDONE: Pipeline[Any, Any] = Pipeline("undone").stage("s0", body, compensate=undo).stage("s1", refused)
PARKED: Pipeline[Any, Any] = Pipeline("parked").stage("s0", mistaken)


def again(ctx: StageContext[Any]) -> StageOutput | None:
    """To be tried again in as many seconds as the input says, and then done."""
    return StageOutput.retry("later", after=ctx.input["seconds"]) if ctx.attempt == 1 else None


def moment(ctx: StageContext[Any]) -> datetime:
    """The one that the input names."""
    return datetime.fromtimestamp(ctx.input["until"], UTC)


SOON = RetryPolicy(base_delay=0.001, jitter="none")
RETRIED: Pipeline[Any, Any] = Pipeline("retried").stage("s0", again, retry=SOON)


def slept() -> Pipeline[Any, Any]:
    """A line that begins with a sleep."""
    made: Pipeline[Any, Any] = Pipeline("slept")
    return made.sleep("nap", until=moment).stage("s0", body)


# A commit to be compared with may be of before sleeps.
SLEEPING = (slept(),) if hasattr(Pipeline, "sleep") else ()
PIPELINES = (*map(line, LENGTHS), FAILED, UNDONE, PARKED, RETRIED, *SLEEPING)
