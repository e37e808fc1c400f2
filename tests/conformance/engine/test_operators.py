"""What a person may do: resume, compensate, settle, cancel; from which state, and what comes of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import RetryPolicy, RunStatus, StageOutput, TransientError
from stageflow_durable.errors import InvalidInput, NotAllowed, OperatorConflict, UnknownRun
from stageflow_durable.model.status import AttemptState, ParkReason, StageState, StepState
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
PARK = {"on_unknown": "park"}
BARE: dict[str, Any] = {"compensate": None}


class TestResume:
    def test_a_run_parked_for_a_bug_goes_on_from_its_last_checkpoint(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b c"))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert engine.resume(handle.run_id, **WHO).status is RunStatus.RUNNING
        engine.drain()
        assert acts.log == ["a", "b", "b", "c"]
        run = handle.describe()
        assert (run.status, run.cause, run.park_reason, run.error) == (RunStatus.SUCCEEDED, None, None, None)

    def test_attempts_count_anew_and_their_numbers_go_on(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", *[TransientError("x")] * 3)
        engine = make_engine(acts.line("a", a=BARE), retry=RetryPolicy(2, base_delay=0))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.status() is RunStatus.FAILED
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert [ctx.attempt for ctx in acts.contexts] == [1, 2, 1, 2]
        assert [attempt.n for attempt in handle.describe().stage("a").attempts] == [1, 2, 3, 4]
        assert handle.status() is RunStatus.SUCCEEDED

    def test_a_poisoned_run_gets_its_recoveries_back(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES, DIES, DIES)
        engine = make_engine(acts.line("a"), max_recoveries=2)
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a"] * 4
        assert handle.status() is RunStatus.SUCCEEDED

    def test_every_branch_goes_on(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)

        def left(_ctx: Any) -> None:
            acts.play("right", TypeError("slip"))
            engine.step(engine.hired())
            raise TypeError("slip")

        acts.play("left", left)
        handle = engine.enqueue("graph", {})
        engine.drain()
        assert handle.status() is RunStatus.PARKED
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert sorted(acts.log) == sorted(["a", "left", "right", "left", "right", "join", "z"])
        assert handle.status() is RunStatus.SUCCEEDED

    def test_a_cancelled_run_that_did_nothing(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        engine.cancel(handle.run_id, **WHO)
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a"]
        assert handle.status() is RunStatus.SUCCEEDED

    def test_a_failed_run_past_its_pivot(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c", b={"pivot": True}))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "c", "c"]
        assert handle.status() is RunStatus.SUCCEEDED

    def test_a_deadline_that_has_passed_is_lifted(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TransientError("busy", retry_after=600))
        engine = make_engine(acts.line("a", a=BARE))
        handle = engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        assert handle.status() is RunStatus.CANCELLED
        assert engine.resume(handle.run_id, **WHO).deadline is None
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
        assert "run.deadline_lifted" in [event.type for event in handle.history()]

    def test_a_deadline_still_to_come_is_kept(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TypeError("slip"))
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {}, deadline=timedelta(seconds=60))
        engine.drain()
        assert engine.resume(handle.run_id, **WHO).deadline is not None

    def test_a_stage_that_must_not_be_tried_unless_somebody_found_out_is_refused(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("a", DIES)
        engine = make_engine(acts.line("a", a=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="outcome of a is unknown.*settle"):
            engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a"]
        assert handle.status() is RunStatus.PARKED

    def test_such_a_stage_is_refused_in_a_run_that_failed_for_another_reason_as_well(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        pipeline = (
            acts.line("a", a=BARE)
            .stage("l", acts.stage, after="a", on_unknown="park")
            .stage("r", acts.stage, after="a")
        )
        engine = make_engine(pipeline, in_place_stages=1)

        def left(_ctx: Any) -> None:
            acts.play("r", FAILS("no"))
            engine.step(engine.hired())
            raise DIES

        acts.play("l", left)
        handle = engine.enqueue("line", {})
        engine.drain()
        assert handle.status() is RunStatus.FAILED
        with pytest.raises(NotAllowed, match="outcome of l is unknown"):
            engine.resume(handle.run_id, **WHO)
        engine.settle(handle.run_id, "l", not_done=True, **WHO)
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("status", ["pending", "running", "waiting", "succeeded", "compensated"])
    def test_a_run_that_is_not_at_rest_or_ended_for_good_is_refused(
        self, make_engine: MakeEngine, acts: Acts, status: str
    ) -> None:
        engine = make_engine(acts.line("a b"), in_place_stages=1)
        acts.play("a", {"waiting": StageOutput.retry("x"), "compensated": FAILS("no")}.get(status, "fine"))
        handle = engine.enqueue("line", {})
        if status in ("succeeded", "compensated"):
            engine.drain()
        elif status != "pending":
            engine.step()
        assert handle.status() == status
        with pytest.raises(NotAllowed, match=status):
            engine.resume(handle.run_id, **WHO)


class TestCompensate:
    def test_a_running_run(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        engine.compensate(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a", "undo a ok"]
        run = handle.describe()
        assert (run.status, run.cause, run.error) == (RunStatus.COMPENSATED, "operator", "because")

    def test_a_parked_run_keeps_the_error_it_was_parked_for(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.compensate(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
        assert handle.describe().error == "TypeError: slip"

    def test_a_failed_run_past_its_pivot_needs_the_word(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c", b={"pivot": True}))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="past-pivot"):
            engine.compensate(handle.run_id, **WHO)
        engine.compensate(handle.run_id, past_pivot=True, **WHO)
        engine.drain()
        assert acts.log[3:] == ["undo c unknown", "undo b ok", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED

    def test_nothing_to_undo_is_refused_with_the_way_out(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TypeError("slip"))
        engine = make_engine(acts.line("a", a=BARE))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="stageflow cancel"):
            engine.compensate(handle.run_id, **WHO)

    def test_while_the_last_stage_runs_it_is_undone_all_the_same(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"))
        acts.play("b", lambda ctx: str(engine.compensate(ctx.run_id, **WHO).status))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo b ok", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED


class TestSettle:
    def test_not_done_tries_the_stage_again(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b c", b=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.settle(handle.run_id, "b", not_done=True, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "b", "c"]
        run = handle.describe()
        assert (run.status, run.cause, run.error) == (RunStatus.SUCCEEDED, None, None)
        assert [attempt.state for attempt in run.stage("b").attempts] == [AttemptState.SETTLED, AttemptState.OK]

    @pytest.mark.parametrize("done", [{"payment": "p1"}, {}, 0, None], ids=repr)
    def test_done_saves_what_was_found_and_goes_on_behind_it(
        self, make_engine: MakeEngine, acts: Acts, done: Any
    ) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b c", b=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.settle(handle.run_id, "b", done=done, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "c"]
        assert handle.outputs() == {"a": "a", "b": done, "c": "c"}
        assert acts.contexts[-1].outputs["b"] == done

    def test_done_is_undone_later_as_what_it_is(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", DIES)
        acts.play("c", StageOutput.reject("no"))
        engine = make_engine(acts.line("a b c", b=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.settle(handle.run_id, "b", done={"x": 1}, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "c", "undo b ok", "undo a ok"]

    def test_not_done_and_then_a_vouched_no_leaves_nothing_to_undo(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES, StageOutput.reject("no"))
        engine = make_engine(acts.line("a", a=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.settle(handle.run_id, "a", not_done=True, **WHO)
        engine.drain()
        assert acts.log == ["a", "a"]
        assert handle.status() is RunStatus.FAILED

    def test_the_last_stage_ends_the_run(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b", b=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert engine.settle(handle.run_id, "b", done={}, **WHO).status is RunStatus.SUCCEEDED

    def test_a_stage_that_failed_in_doubt(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c", b={"pivot": True}))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert engine.settle(handle.run_id, "c", done={"found": True}, **WHO).status is RunStatus.SUCCEEDED

    def test_a_pivot_that_was_not_done_was_not_passed(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", DIES, FAILS("no"))
        engine = make_engine(acts.line("a b c", b={"pivot": True, **PARK}))
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.settle(handle.run_id, "b", not_done=True, **WHO)
        assert not handle.describe().pivot_passed

    @pytest.mark.parametrize("first", ["l", "r"])
    @pytest.mark.parametrize("done", [True, False])
    def test_of_two_stages_in_doubt_settling_one_leaves_the_other_alone(
        self, make_engine: MakeEngine, acts: Acts, first: str, done: bool
    ) -> None:
        pipeline = (
            acts.line("a")
            .stage("l", acts.stage, after="a", on_unknown="park")
            .stage("r", acts.stage, after="a", on_unknown="park")
            .stage("join", acts.stage, after=("l", "r"))
        )
        engine = make_engine(pipeline, in_place_stages=1)

        def both_die(_ctx: Any) -> None:
            acts.play("r", DIES)
            engine.step(other)
            raise DIES

        other = engine.hired()
        acts.play("l", both_die)
        handle = engine.enqueue("line", {})
        engine.drain()
        second = "r" if first == "l" else "l"
        found: dict[str, Any] = {"done": {"by": "ops"}} if done else {"not_done": True}
        engine.settle(handle.run_id, first, **found, **WHO)
        engine.drain()
        run = handle.describe()
        assert sorted(acts.log) == ["a", "l", "r"]
        assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.UNKNOWN, second)
        assert run.stage(second).state is StageState.UNKNOWN
        engine.settle(handle.run_id, second, done={"by": "ops"}, **WHO)
        engine.drain()
        assert sorted(acts.log) == sorted(["a", "l", "r", "join", *([] if done else [first])])
        assert handle.status() is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("stage", ["a", "c"])
    def test_a_stage_that_is_not_in_doubt_is_refused(self, make_engine: MakeEngine, acts: Acts, stage: str) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b c", b=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="unknown are: b"):
            engine.settle(handle.run_id, stage, not_done=True, **WHO)

    def test_a_stage_that_vouched_is_refused(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", StageOutput.reject("declined"))
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="not in doubt"):
            engine.settle(handle.run_id, "a", not_done=True, **WHO)

    def test_a_stage_that_does_not_exist_is_refused_with_those_that_do(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        acts.play("a", DIES)
        engine = make_engine(acts.line("a", a=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(NotAllowed, match="no stage 'x'; it has: a"):
            engine.settle(handle.run_id, "x", not_done=True, **WHO)

    def test_a_run_that_goes_on_is_refused(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        with pytest.raises(NotAllowed, match="running"):
            engine.settle(handle.run_id, "b", not_done=True, **WHO)

    def test_one_of_done_and_not_done_has_to_be_said(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", DIES)
        engine = make_engine(acts.line("a", a=PARK))
        handle = engine.enqueue("line", {})
        engine.drain()
        with pytest.raises(InvalidInput, match="done"):
            engine.settle(handle.run_id, "a", **WHO)
        with pytest.raises(InvalidInput, match="done"):
            engine.settle(handle.run_id, "a", done={}, not_done=True, **WHO)


class TestEveryVerb:
    VERBS = ("cancel", "resume", "compensate")

    @pytest.mark.parametrize("verb", VERBS)
    def test_on_a_version_that_is_gone_is_a_conflict_and_changes_nothing(
        self, make_engine: MakeEngine, acts: Acts, verb: str
    ) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        before = handle.describe()
        with pytest.raises(OperatorConflict, match="look again"):
            getattr(engine, verb)(handle.run_id, op_version=before.op_version + 1, **WHO)
        assert handle.describe() == before
        assert getattr(engine, verb)(handle.run_id, op_version=before.op_version, **WHO).op_version == (
            before.op_version + 1
        )

    @pytest.mark.parametrize("verb", VERBS)
    def test_is_in_the_history_with_actor_and_reason(self, make_engine: MakeEngine, acts: Acts, verb: str) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b"))
        handle = engine.enqueue("line", {})
        engine.drain()
        getattr(engine, verb)(handle.run_id, **WHO)
        [event] = [event for event in handle.history() if event.type == f"operator.{verb}"]
        assert {"actor": "ops", "reason": "because"}.items() <= dict(event.data).items()

    def test_that_is_refused_leaves_no_trace(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        engine.drain()
        before = handle.describe(), handle.history()
        for verb in self.VERBS:
            with pytest.raises(NotAllowed):
                getattr(engine, verb)(handle.run_id, **WHO)
        assert (handle.describe(), handle.history()) == before

    def test_takes_a_prefix_that_fits_one_run_and_no_other(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a"))
        handle, _other = engine.enqueue("line", {}), engine.enqueue("line", {})
        assert engine.cancel(handle.run_id[:-2], **WHO).run_id == handle.run_id
        with pytest.raises(UnknownRun, match="more than one"):
            engine.cancel(handle.run_id[:8], **WHO)
        with pytest.raises(UnknownRun, match="no run"):
            engine.cancel("01XXXXXXXX", **WHO)

    def test_messages_from_before_it_find_nothing_to_take(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", TypeError("slip"))
        engine = make_engine(acts.line("a b"), in_place_stages=1)
        engine.messages.copies = lambda _nudge: 2
        handle = engine.enqueue("line", {})
        engine.drain()
        engine.resume(handle.run_id, **WHO)
        engine.drain()
        assert acts.log == ["a", "b", "b"]

    def test_an_owner_from_before_it_is_fenced(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b", a=PARK))
        zombie = engine.crew[0]

        def paused(ctx: Any) -> str:
            engine.clock.advance(60)  # past the lease, without a heartbeat
            engine.sweep()
            engine.settle(ctx.run_id, "a", done={"by": "ops"}, **WHO)
            return "late"

        acts.play("a", paused)
        handle = engine.enqueue("line", {})
        engine.step(zombie)
        engine.drain()
        assert handle.outputs() == {"a": {"by": "ops"}, "b": "b"}
        assert handle.describe().stage("b").undo is not None


def test_steps_of_a_compensated_run_are_final(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    steps = [stage.undo.state for stage in handle.describe().stages if stage.undo]
    assert steps == [StepState.COMPENSATED] * 2
    for verb in ("cancel", "resume", "compensate"):
        with pytest.raises(NotAllowed, match="compensated"):
            getattr(engine, verb)(handle.run_id, **WHO)


def test_a_run_that_was_stopped_when_all_was_done_has_nothing_to_resume(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))

    def stopped_meanwhile(ctx: Any) -> StageOutput:
        engine.compensate(ctx.run_id, **WHO)
        return StageOutput.skip("nothing to do")

    acts.play("a", stopped_meanwhile)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.CANCELLED
    with pytest.raises(NotAllowed, match="all its stages are done"):
        engine.resume(handle.run_id, **WHO)
    assert handle.status() is RunStatus.CANCELLED


class TestOddText:
    @pytest.mark.parametrize("odd", ["no\0pe", "no\ud800pe", "\u00e9\u00e9\u00e9\u00e9"])
    def test_given_an_id_that_cannot_be_one_then_the_run_is_unknown(
        self, make_engine: MakeEngine, acts: Acts, odd: str
    ) -> None:
        with pytest.raises(UnknownRun, match="no run"):
            make_engine(acts.line("a")).handle(odd)

    def test_given_a_reason_that_no_database_takes_then_the_run_is_cancelled_and_the_reason_is_legible(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        engine = make_engine(acts.line("a"))
        handle = engine.enqueue("line", {})
        engine.cancel(handle.run_id, reason="a\0b\ud800", actor="me\0")
        engine.drain()
        run = handle.describe()
        assert (run.status, run.error) == (RunStatus.CANCELLED, "a\\x00b\\ud800")
