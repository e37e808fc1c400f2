"""Why a run does not move: its rows say what it waits for, and every view of it tells that."""

from __future__ import annotations

from typing import Any

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, TransientError
from stageflow_durable.model.status import StageState, WaitingFor
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIAMOND, Acts
from tests.conformance.engine.conftest import MakeEngine

LATER = RetryPolicy(3, base_delay=50, max_delay=100, jitter="none")


def listed(engine: InProcessEngine) -> list[WaitingFor | None]:
    """What the runs of a list wait for."""
    return [run.waiting_for for run in engine.runs()]


def test_a_run_that_runs_or_has_ended_waits_for_nothing(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    seen: list[Any] = []
    acts.play("a", lambda ctx: seen.append((engine.handle(ctx.run_id).describe().waiting_for, listed(engine))))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert seen == [(None, [None])]
    assert (handle.status(), handle.describe().waiting_for) == (RunStatus.SUCCEEDED, None)


def test_a_retry_waits_for_its_time(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", TransientError("busy"))
    engine = make_engine(acts.line("a b"), retry=LATER)
    handle = engine.enqueue("line", {})
    engine.work()
    run = handle.describe()
    assert (run.status, run.waiting_for, listed(engine)) == (RunStatus.WAITING, WaitingFor.TIME, [WaitingFor.TIME])
    assert (run.stage("a").waiting_for, run.stage("b").waiting_for) == (WaitingFor.TIME, None)
    engine.drain()
    assert handle.describe().stage("a").waiting_for is None


def test_an_undo_that_is_tried_again_waits_for_its_time(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", ValueError("no"))
    acts.play("undo b", TransientError("busy"))
    engine = make_engine(acts.line("a b"), retry=LATER)
    handle = engine.enqueue("line", {})
    engine.work()
    undo = handle.describe().stage("b").undo
    assert undo is not None
    assert undo.waiting_for is WaitingFor.TIME
    assert undo.wake_at is not None
    assert (handle.describe().waiting_for, listed(engine)) == (WaitingFor.TIME, [WaitingFor.TIME])


def test_a_stage_whose_business_key_another_run_holds_waits_for_its_turn(make_engine: MakeEngine, acts: Acts) -> None:
    pipeline = Pipeline[Any, Any]("line").stage("a", acts.stage, key=lambda _ctx: "order-1")
    engine = make_engine(pipeline, retry=LATER)
    acts.play("a", TransientError("busy"))
    first, second = engine.enqueue("line", {}), engine.enqueue("line", {})
    engine.work()
    assert (first.describe().waiting_for, second.describe().waiting_for) == (WaitingFor.TIME, WaitingFor.LIMIT)
    assert set(listed(engine)) == {WaitingFor.LIMIT, WaitingFor.TIME}


def test_while_one_branch_goes_on_a_run_waits_for_nothing(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("left", TransientError("busy"))
    engine = make_engine(acts.graph(**DIAMOND), retry=LATER)
    handle = engine.enqueue("graph", {})
    seen: list[Any] = []
    acts.play("right", lambda ctx: seen.append(engine.handle(ctx.run_id).describe()))
    engine.work()
    (during,) = seen
    assert during.waiting_for is None
    after = handle.describe()
    assert (after.waiting_for, after.stage("left").state) == (WaitingFor.TIME, StageState.WAITING)
