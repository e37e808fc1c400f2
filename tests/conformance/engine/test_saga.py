"""Undoing: what, in which order, what it is told, and what becomes of an undo that fails."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, StageOutput, TransientError, Undo
from stageflow_durable.errors import CompensationFailed, NotAllowed, RunCompensated
from stageflow_durable.model.status import Cause, StageState, StepState
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}


@pytest.mark.parametrize("in_place", [1, 50])
def test_what_was_done_is_undone_in_reverse(make_engine: MakeEngine, acts: Acts, in_place: int) -> None:
    acts.play("d", FAILS("no"))
    engine = make_engine(acts.line("a b c d e"), in_place_stages=in_place)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log[4:] == ["undo d unknown", "undo c ok", "undo b ok", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATED
    with pytest.raises(RunCompensated, match=r"compensated at stage d: PermanentError: no"):
        handle.result()


@pytest.mark.parametrize("in_place", [1, 50])
def test_undo_is_the_reverse_of_the_graph(make_engine: MakeEngine, acts: Acts, in_place: int) -> None:
    acts.play("end", FAILS("no"))
    engine = make_engine(acts.graph(a="", b="a", c="b", x="a", y="x", end="c y"), in_place_stages=in_place)
    engine.enqueue("graph", {})
    engine.drain()
    undone = [name.split()[1] for name in acts.log if name.startswith("undo")]
    assert (undone[0], undone[-1]) == ("end", "a")
    assert undone.index("c") < undone.index("b")
    assert undone.index("y") < undone.index("x")
    assert sorted(undone) == ["a", "b", "c", "end", "x", "y"]


def test_independent_branches_are_undone_side_by_side(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("end", StageOutput.reject("no"))
    engine = make_engine(acts.graph(a="", b="a", c="a", end="b c"), in_place_stages=1)
    handle = engine.enqueue("graph", {})
    while handle.status() is not RunStatus.COMPENSATING:
        engine.step()
    assert len(engine.messages) == 2
    other = engine.hired()
    acts.play("undo c", lambda _ctx: engine.step(other))
    engine.drain()
    assert acts.log[-3:] == ["undo c ok", "undo b ok", "undo a ok"]


def test_an_undo_is_told_everything_it_needs(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {"n": 1}, client_id="web", metadata={"m": 1})
    engine.drain()
    undo_b, undo_a = acts.contexts[2:]
    assert (undo_a.stage, undo_a.outcome, undo_a.output, undo_a.attempt) == ("a", "ok", "a", 1)
    assert (undo_b.stage, undo_b.outcome, undo_b.output) == ("b", "unknown", None)
    assert (undo_a.input, undo_a.client_id, undo_a.metadata) == ({"n": 1}, "web", {"m": 1})
    assert undo_a.action_key == acts.contexts[0].idempotency_key
    assert undo_a.idempotency_key == f"sf_{handle.run_id}_a_undo"
    assert undo_a.reason == "PermanentError: no"
    assert undo_b.outputs == {"a": "a"}


def test_a_stage_that_vouches_is_not_undone(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", StageOutput.reject("declined"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "undo a ok"]
    undo = handle.describe().stage("b").undo
    assert undo is not None
    assert undo.state is StepState.VOID


@pytest.mark.parametrize(
    "doubt",
    [TransientError("x"), DIES],
    ids=["raised", "died"],
)
def test_a_stage_that_vouches_after_an_attempt_that_did_not_is_undone_as_unknown(
    make_engine: MakeEngine, acts: Acts, doubt: Any
) -> None:
    acts.play("a", doubt, StageOutput.reject("declined"))
    engine = make_engine(acts.line("a"))
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "undo a unknown"]


def test_an_attempt_that_asked_to_be_tried_again_leaves_no_doubt(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.retry("busy"), StageOutput.reject("declined"))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a"]
    assert handle.status() is RunStatus.FAILED


@pytest.mark.parametrize(
    "end", [FAILS("x"), StageOutput.fail("x"), StageOutput.retry("x"), StageOutput.cancel("x")], ids=repr
)
def test_a_stage_that_does_not_vouch_is_undone_as_unknown(make_engine: MakeEngine, acts: Acts, end: Any) -> None:
    acts.play("a", end)
    engine = make_engine(acts.line("a"), retry=RetryPolicy(1))
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "undo a unknown"]


def test_a_skipped_stage_is_not_undone(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.skip("nothing to do"))
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b"))
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "undo b unknown"]


def test_a_stage_skipped_after_an_attempt_in_doubt_is_undone(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", TransientError("x"), StageOutput.skip("it is there already"))
    acts.play("b", StageOutput.reject("no"))
    engine = make_engine(acts.line("a b"))
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "b", "undo a unknown"]


def test_stages_without_an_undo_are_left_as_they_are(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("c", FAILS("no"))
    engine = make_engine(acts.line("a b c", b={"compensate": None}, c={"compensate": None}))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "c", "undo a ok"]
    assert [stage.state for stage in handle.describe().stages] == [StageState.UNDONE, StageState.OK, StageState.FAILED]


def test_a_run_that_did_nothing_to_undo_has_failed_and_was_never_compensating(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", StageOutput.reject("no"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.FAILED
    assert "work.compensation_started" not in [event.type for event in handle.history()]


def test_failure_and_the_start_of_undo_are_one_transaction(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b"))
    seen: list[RunStatus] = []
    watched = engine.faults.watch

    def watch(point: Any) -> None:
        watched(point)
        seen.extend(run.status for run in engine.runs())

    engine.faults.watch = watch
    engine.enqueue("line", {})
    engine.drain()
    assert RunStatus.FAILED not in seen
    assert RunStatus.COMPENSATING in seen


def test_the_intent_is_written_before_the_action(make_engine: MakeEngine, acts: Acts) -> None:
    engine, seen = make_engine(acts.line("a b")), []

    def looks(ctx: Any) -> None:
        undo = engine.run(ctx.run_id).stage("a").undo
        seen.append(undo and undo.state)

    acts.play("a", looks)
    acts.play("b", looks)
    engine.enqueue("line", {})
    engine.drain()
    assert seen == [StepState.INTENDED, StepState.RECORDED]


class TestAnUndoThatFails:
    def test_is_tried_again_by_its_own_policy_with_a_key_that_stays(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", FAILS("no"))
        acts.play("undo a", ConnectionError("1"), StageOutput.retry("2", after=30))
        own = Undo(acts.undo, retry=RetryPolicy(5, base_delay=1))
        engine = make_engine(acts.line("a b", a={"compensate": own}), retry=RetryPolicy(1))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok", "undo a ok", "undo a ok"]
        tries = acts.contexts[-3:]
        assert ([ctx.attempt for ctx in tries], len({ctx.idempotency_key for ctx in tries})) == ([1, 2, 3], 1)
        assert handle.status() is RunStatus.COMPENSATED

    def test_for_good_is_compensation_failed_and_older_steps_are_still_undone(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("c", FAILS("no"))
        acts.play("undo b", FAILS("cannot"))
        engine = make_engine(acts.line("a b c"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log[3:] == ["undo c unknown", "undo b ok", "undo a ok"]
        run = handle.describe()
        steps = [stage.undo.state for stage in run.stages if stage.undo]
        assert steps == [StepState.COMPENSATED, StepState.COMPENSATION_FAILED, StepState.COMPENSATED]
        assert (run.status, run.cause) == (RunStatus.COMPENSATION_FAILED, Cause.FAILED)
        with pytest.raises(CompensationFailed):
            handle.result()

    def test_can_be_tried_again_by_a_person(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", FAILS("no"))
        acts.play("undo b", FAILS("1"))
        acts.play("undo a", FAILS("2"))
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.status() is RunStatus.COMPENSATION_FAILED
        engine.compensate(handle.run_id, **WHO)
        engine.drain()
        assert acts.log[-2:] == ["undo b unknown", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED

    def test_cannot_be_resumed_forward(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", FAILS("no"))
        acts.play("undo a", FAILS("1"))
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="undone"):
            engine.resume(handle.run_id, **WHO)

    def test_by_killing_its_process_again_and_again_is_failed_for_good(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("b", FAILS("no"))
        acts.play("undo b", DIES, DIES)
        engine = make_engine(acts.line("a b"), max_recoveries=2)
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log[2:] == ["undo b unknown", "undo b unknown", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATION_FAILED

    def test_by_a_lost_process_is_tried_again_with_the_outcome_it_was_told(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("b", StageOutput.reject("no"))
        acts.play("undo a", DIES)
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo a ok", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED


@pytest.mark.parametrize(
    "answer",
    [None, "done", {"refund": 1}, object(), StageOutput.ok(), StageOutput.skip("gone")],
    ids=["none", "text", "dict", "object", "ok", "skip"],
)
def test_whatever_an_undo_returns_it_is_done(make_engine: MakeEngine, acts: Acts, answer: object) -> None:
    acts.play("b", StageOutput.reject("no"))
    acts.play("undo a", lambda _ctx: answer)
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED


def test_an_async_undo(make_engine: MakeEngine, acts: Acts) -> None:
    async def undo(ctx: Any) -> None:
        acts.undo(ctx)

    acts.play("b", StageOutput.reject("no"))
    engine = make_engine(Pipeline[Any, Any]("p").stage("a", acts.stage, compensate=undo).stage("b", acts.stage))
    engine.enqueue("p", {})
    engine.drain()
    assert acts.log == ["a", "b", "undo a ok"]


def test_the_history_tells_how_it_was_undone(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    acts.play("undo a", FAILS("cannot"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    types = [event.type for event in handle.history()]
    assert types[types.index("stage.failed") :] == [
        "stage.failed",
        "run.stopping",
        "work.compensation_started",
        "undo.begun",
        "work.compensation_executed",
        "undo.begun",
        "work.compensation_failed",
        "run.compensation_failed",
    ]
