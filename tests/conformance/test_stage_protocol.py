"""Whatever stands for a stage is one: each adapter can take the place of a plain stage object, and nobody notices."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery

from stageflow_durable import (
    Pipeline,
    RetryPolicy,
    RunStatus,
    Stage,
    StageKind,
    StageOutput,
    TransientError,
    task_stage,
)
from stageflow_durable.engine.body import is_async
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.idempotency import IdempotencyInterceptor, IdempotentStageMixin, MemoryIdempotencyStore
from stageflow_durable.model.callables import uncallable
from stageflow_durable.retry import RetryStage
from stageflow_durable.saga import CheckpointStage, CompensatingActionStage, SagaOrchestrator
from stageflow_durable.testing.plugin import MakeEngine, stageflow_engine

__all__ = ["stageflow_engine"]

Body = Callable[[Any], Any]
POLICY = RetryPolicy(max_attempts=3, base_delay=0.1)
_number = itertools.count()
app = Celery("adopted", broker="memory://", set_as_current=False)


class Plain:
    """A stage object as an application writes it."""

    name = "charge"
    kind = StageKind.WORK

    def __init__(self, body: Body) -> None:
        self.body = body

    def execute(self, ctx: Any) -> Any:
        return self.body(ctx)


class PlainAsync(Plain):
    """The same with an ``async def``, as the tracker's stages are."""

    async def execute(self, ctx: Any) -> Any:
        await asyncio.sleep(0)
        return self.body(ctx)


class WithText(Plain):
    """One whose kind is a text."""

    kind: Any = "work"


class Guarded(IdempotentStageMixin, Plain):
    """One behind an idempotency key."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.idempotency = IdempotencyInterceptor(MemoryIdempotencyStore())


class GuardedAsync(IdempotentStageMixin, PlainAsync):
    """One with an ``async def`` behind a key."""

    def __init__(self, body: Body) -> None:
        super().__init__(body)
        self.idempotency = IdempotencyInterceptor(MemoryIdempotencyStore())


def _undo(_ctx: Any) -> None:
    """Nothing to take back."""


def _task(body: Body) -> Stage:
    task = app.task(_function(body), name=f"charge-{next(_number)}", shared=False)
    return task_stage(task.s, name="charge")


def _function(body: Body) -> Body:
    def charge(ctx: Any) -> Any:
        return body(ctx)

    return charge


def _function_async(body: Body) -> Body:
    async def charge(ctx: Any) -> Any:
        await asyncio.sleep(0)
        return body(ctx)

    return charge


ADAPTERS: dict[str, Callable[[Body], Stage]] = {
    "a stage object": Plain,
    "an async one": PlainAsync,
    "RetryStage": lambda body: RetryStage(Plain(body), POLICY),
    "RetryStage of an async one": lambda body: RetryStage(PlainAsync(body), POLICY),
    "RetryStage of one whose kind is a text": lambda body: RetryStage(WithText(body), POLICY),
    "CompensatingActionStage of a function": lambda body: CompensatingActionStage(_function(body), _undo),
    "CompensatingActionStage of an async one": lambda body: CompensatingActionStage(_function_async(body), _undo),
    "CompensatingActionStage of a stage": lambda body: CompensatingActionStage(WithText(body), _undo),
    "RetryStage of CompensatingActionStage": lambda body: RetryStage(
        CompensatingActionStage(Plain(body), _undo), POLICY
    ),
    "CompensatingActionStage of RetryStage": lambda body: CompensatingActionStage(
        RetryStage(PlainAsync(body), POLICY), _undo
    ),
    "IdempotentStageMixin": Guarded,
    "IdempotentStageMixin, async": GuardedAsync,
    "RetryStage of IdempotentStageMixin": lambda body: RetryStage(GuardedAsync(body), POLICY),
    "task_stage": _task,
    "RetryStage of task_stage": lambda body: RetryStage(_task(body), POLICY),
}

adapters = pytest.mark.parametrize("adapt", ADAPTERS.values(), ids=ADAPTERS)


def _body(_ctx: Any) -> dict[str, int]:
    return {"paid": 1}


@pytest.mark.parametrize("stage", [*(adapt(_body) for adapt in ADAPTERS.values()), CheckpointStage("charge")])
def test_it_has_a_name_a_kind_and_a_body(stage: Stage) -> None:
    assert isinstance(stage, Stage)
    assert stage.name == "charge"
    assert isinstance(stage.kind, StageKind)
    assert uncallable(stage.execute) is None


@adapters
def test_other_adapters_take_it_as_it_is(adapt: Callable[[Body], Stage]) -> None:
    stage = adapt(_body)
    options = dict(getattr(stage, "stage_options", {}))
    if "retry" not in options:
        stage = RetryStage(stage, POLICY)
    if "compensate" not in options:
        stage = CompensatingActionStage(stage, _undo)
    assert (stage.name, stage.kind) == ("charge", StageKind.WORK)
    assert is_async(stage.execute) is is_async(adapt(_body).execute)
    spec = SagaOrchestrator("trip", stage).pipeline.by_name["charge"]
    assert (spec.kind, spec.retry, spec.compensate is not None) == (StageKind.WORK, POLICY, True)
    assert options.items() <= {"retry": spec.retry, "compensate": spec.compensate}.items()


OUTCOMES: dict[str, tuple[Any, RunStatus, str | None]] = {
    "a value": ({"paid": 1}, RunStatus.SUCCEEDED, None),
    "an output": (StageOutput.ok({"paid": 1}), RunStatus.SUCCEEDED, None),
    "a skip": (StageOutput.skip("nothing to pay"), RunStatus.SUCCEEDED, None),
    "a retry": (StageOutput.retry("busy"), RunStatus.SUCCEEDED, None),
    "a transient error": (TransientError("busy"), RunStatus.SUCCEEDED, None),
    "a reject": (StageOutput.reject("declined"), RunStatus.FAILED, "declined"),
    "an error": (ValueError("no such card"), RunStatus.FAILED, "ValueError: no such card"),
    "a slip": (TypeError("slip"), RunStatus.PARKED, "TypeError: slip"),
}


@adapters
@pytest.mark.parametrize(("answer", "status", "error"), OUTCOMES.values(), ids=OUTCOMES)
def test_an_attempt_ends_as_its_body_does(
    stageflow_engine: MakeEngine,  # the fixture
    adapt: Callable[[Body], Stage],
    answer: Any,
    status: RunStatus,
    error: str | None,
) -> None:
    answers = [answer]

    def body(_ctx: Any) -> Any:
        found = answers.pop(0) if answers else {"paid": 2}
        if isinstance(found, Exception):
            raise found
        return found

    pipeline = Pipeline[Any, Any]("p").stage("charge", adapt(body))
    engine = stageflow_engine(pipeline, retry=POLICY)
    handle = engine.enqueue("p", {})
    engine.drain()
    run = handle.describe()
    undone = status is RunStatus.FAILED and run.stage("charge").undo is not None and error != "declined"
    assert (run.status, run.error) == (RunStatus.COMPENSATED if undone else status, error)
    if status is RunStatus.SUCCEEDED:
        paid = {} if "skip" in str(answer) else {"charge": {"paid": 2 if "busy" in str(answer) else 1}}
        assert handle.outputs() == paid


def test_what_is_no_stage_object_is_refused_by_name() -> None:
    def charge(_ctx: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="RetryStage: charge is no stage object"):
        RetryStage(charge, POLICY)  # type: ignore[arg-type]  # that is the mistake
