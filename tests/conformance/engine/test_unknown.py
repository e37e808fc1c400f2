"""Outcomes that nobody knows: tried again, parked for a person, or undone, as the stage wants it."""

from __future__ import annotations

from typing import ClassVar

import pytest

from stageflow_durable import PermanentError, RunStatus, StageKind, StageOutput, TransientError
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, StageState
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

PARK, COMPENSATE = {"on_unknown": "park"}, {"on_unknown": "compensate"}


def test_by_default_a_lost_stage_is_tried_again_under_the_same_key(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", DIES)
    engine = make_engine(acts.line("a b c"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "b", "c"]
    assert len({ctx.idempotency_key for ctx in acts.contexts[1:3]}) == 1
    states = [attempt.state for attempt in handle.describe().stage("b").attempts]
    assert states == [AttemptState.UNKNOWN, AttemptState.OK]


def test_a_stage_that_says_park_is_not_tried_again(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", DIES)
    engine = make_engine(acts.line("a b c", b=PARK))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert acts.log == ["a", "b"]
    assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.UNKNOWN, "b")
    assert run.stage("b").state is StageState.UNKNOWN
    assert "lease" in str(run.error)


def test_a_stage_that_says_compensate_is_undone_as_unknown(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", DIES)
    engine = make_engine(acts.line("a b c", b=COMPENSATE))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
    assert (handle.status(), handle.describe().cause) == (RunStatus.COMPENSATED, Cause.FAILED)


def test_an_exception_is_an_unknown_outcome_as_well(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", TransientError("the answer did not come"))
    engine = make_engine(acts.line("a b", b=PARK))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert acts.log == ["a", "b"]
    assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.UNKNOWN, "b")


def test_a_stage_that_asks_for_a_retry_knows_its_outcome(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", StageOutput.retry("busy"))
    engine = make_engine(acts.line("a b", b=PARK))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "b"]
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize("watched", [True, False])
def test_a_stage_that_kills_its_process_again_and_again_is_parked_as_poison(
    make_engine: MakeEngine, acts: Acts, watched: bool
) -> None:
    acts.play("b", *[DIES] * 9)
    engine = make_engine(acts.line("a b c"), max_recoveries=3)
    engine.watched = watched
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert acts.log == ["a", "b", "b", "b"]
    assert (run.status, run.park_reason, run.stage("b").lost) == (RunStatus.PARKED, ParkReason.POISON, 3)


def test_poison_is_counted_anew_after_each_commit(make_engine: MakeEngine, acts: Acts) -> None:
    for stage in "abc":
        acts.play(stage, DIES, DIES)
    engine = make_engine(acts.line("a b c"), max_recoveries=3)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert acts.log == [*"aaabbbccc"]


def test_a_worker_that_dies_before_it_calls_the_body_is_lost_all_the_same(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.faults.at("after", "begin")
    engine.drain()
    assert acts.log == ["a"]
    assert handle.describe().stage("a").lost == 1


def test_the_undo_of_a_stage_whose_process_was_seen_to_die_begins_at_once(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", DIES)
    engine = make_engine(acts.line("a b", b={**COMPENSATE, "timeout": 600}))
    engine.watched = True
    started, handle = engine.clock.time(), engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert engine.clock.time() == started


def test_the_undo_of_a_lost_stage_with_a_timeout_waits_until_it_would_have_been_killed(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("b", DIES)
    engine = make_engine(acts.line("a b", b={**COMPENSATE, "timeout": 600}))
    started, handle = engine.clock.time(), engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert engine.clock.time() - started >= 600


def test_an_attempt_in_doubt_makes_the_whole_stage_unknown_to_its_undo(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", DIES, StageOutput.reject("declined"))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "undo a unknown"]
    assert handle.status() is RunStatus.COMPENSATED


def test_a_lost_stage_of_a_run_that_stops_is_unknown_and_not_tried_again(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)

    def other_branch_fails(_ctx: object) -> None:
        acts.play("right", FAILS("no"))
        engine.step(engine.hired())
        raise DIES

    acts.play("left", other_branch_fails)
    handle = engine.enqueue("graph", {})
    engine.step()
    engine.step()
    assert handle.status() is RunStatus.STOPPING
    engine.drain()
    assert acts.log[:3] == ["a", "left", "right"]
    assert sorted(acts.log[3:5]) == ["undo left unknown", "undo right unknown"]
    assert acts.log[5:] == ["undo a ok"]


class TestPivot:
    """The point of no return."""

    PIVOT: ClassVar = {"pivot": True}

    def test_a_failure_after_it_is_failed_and_nothing_is_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c", b=self.PIVOT))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "c"]
        assert (handle.status(), handle.describe().cause) == (RunStatus.FAILED, Cause.FAILED)

    def test_a_failure_before_it_is_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", FAILS("no"))
        engine = make_engine(acts.line("a b c", c=self.PIVOT))
        engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]

    def test_it_is_passed_when_it_begins(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine, seen = make_engine(acts.line("a b", b=self.PIVOT)), []
        acts.play("a", lambda ctx: seen.append(engine.run(ctx.run_id).pivot_passed))
        acts.play("b", lambda ctx: seen.append(engine.run(ctx.run_id).pivot_passed))
        engine.enqueue("line", {})
        engine.drain()
        assert seen == [False, True]

    def test_one_that_vouches_was_not_passed(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", StageOutput.reject("closed"))
        engine = make_engine(acts.line("a b c", b=self.PIVOT))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo a ok"]
        assert not handle.describe().pivot_passed

    def test_one_that_fails_in_doubt_parks(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", PermanentError("who knows"))
        engine = make_engine(acts.line("a b c", b=self.PIVOT))
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b"]
        assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.UNKNOWN)

    def test_one_that_is_lost_is_tried_again(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b c", b=self.PIVOT))
        handle = engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "b", "c"]
        assert handle.status() is RunStatus.SUCCEEDED

    @pytest.mark.parametrize("on_unknown", [PARK, COMPENSATE], ids=["park", "compensate"])
    def test_one_that_is_lost_and_must_not_be_tried_again_parks(
        self, make_engine: MakeEngine, acts: Acts, on_unknown: dict[str, str]
    ) -> None:
        acts.play("b", DIES)
        engine = make_engine(acts.line("a b c", b={**self.PIVOT, **on_unknown}))
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "b"]
        assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.UNKNOWN)

    def test_one_in_doubt_parks_even_when_the_run_was_stopping_already(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        # A guard beside a pivot is allowed; it fails while the pivot runs, and the pivot then ends in doubt.
        pipeline = acts.line("a p", p=self.PIVOT).stage("guard", acts.stage, kind=StageKind.GUARD, after="a")
        engine = make_engine(pipeline, in_place_stages=1)

        def guard_fails(_ctx: object) -> None:
            acts.play("guard", FAILS("no"))
            engine.step(engine.hired())
            raise PermanentError("who knows")

        acts.play("p", guard_fails)
        handle = engine.enqueue("line", {})
        engine.drain()
        run = handle.describe()
        assert acts.log == ["a", "p", "guard"]
        assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.UNKNOWN)
