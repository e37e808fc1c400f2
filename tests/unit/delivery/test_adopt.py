"""``task_stage``: an existing Celery task as a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from stageflow_durable import Pipeline, task_stage
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.testing import engine_for_tests

app = Celery("adopted", broker="memory://", set_as_current=False)
called: list[int] = []


def _add(n: int) -> int:
    called.append(n)
    return n + 1


add = app.task(_add, name="adopted.add", shared=False)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    called.clear()


def test_given_the_signature_of_a_task_when_the_stage_runs_then_its_answer_is_the_output() -> None:
    with engine_for_tests([Pipeline("p").stage("s", task_stage(lambda ctx: add.s(ctx.input["n"])))]) as engine:
        handle = engine.enqueue("p", {"n": 1})
        engine.drain()
        assert handle.result(timeout=0) == {"s": 2}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda _ctx: chain(add.s(1), add.s()), "a chain of several tasks"),
        (lambda _ctx: group(add.s(1), add.s(2)), "a group of several tasks"),
        (lambda _ctx: chord([add.s(1)], add.s()), "a chord of several tasks"),
        (lambda _ctx: add, "takes the signature of a task"),
        (lambda _ctx: None, "NoneType given"),
    ],
    ids=["chain", "group", "chord", "task", "nothing"],
)
def test_given_anything_else_when_the_stage_runs_then_the_run_is_parked_by_name_and_no_task_is_called(
    made: Callable[[Any], Any], said: str
) -> None:
    with engine_for_tests([Pipeline("p").stage("s", task_stage(made))]) as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert said in str(run.error)
    assert called == []
