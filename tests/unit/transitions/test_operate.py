"""What a person may do to a run, and what it then does."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.errors import NotAllowed, OperatorConflict
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Failure
from stageflow_durable.transitions import operate, take, undo
from stageflow_durable.transitions.operate import Order
from tests.unit.transitions.story import RUN, Story, body, line

NO = Failure("no", "permanent", doubt=True)


def _order(verb: str, **options: Any) -> Order:
    return Order(RUN, verb, "because", "ada", **options)


def _unknown(**options: Any) -> Story:
    """A run that is parked for a stage whose outcome nobody knows."""
    story = Story(Pipeline("one").stage("a", body, on_unknown="park", **options).stage("b", body))
    story.begin("a")
    story.lose("a")
    story.apply(take.take(story.facts(), "a", 0, max_lost=5))
    assert story.run.park_reason is ParkReason.UNKNOWN
    return story


def test_given_a_run_that_changed_since_a_person_looked_when_they_order_then_it_is_a_conflict() -> None:
    story = Story(line("a"))
    story.apply(operate.cancel(story.facts(), _order("cancel", op_version=0)))
    with pytest.raises(OperatorConflict):
        operate.resume(story.facts(), _order("resume", op_version=0))


def test_given_completed_work_when_a_run_is_cancelled_then_it_is_undone_and_nothing_waiting_begins() -> None:
    story = Story(line("a", "b"))
    story.run_through("a")
    change = story.apply(operate.cancel(story.facts(), _order("cancel")))
    assert (story.run.status, story.run.cause) == (RunStatus.COMPENSATING, Cause.CANCELLED)
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]
    assert story.state("a") == StrandState.REST
    assert story.events[-3:] == ["operator.cancel", "run.stopping", "work.compensation_started"]


def test_given_a_run_that_was_about_to_be_parked_when_a_person_cancels_then_it_is_undone_instead() -> None:
    both = Pipeline("both").stage("l", body, after=(), compensate=body).stage("r", body, after=(), compensate=body)
    story = Story(both.stage("join", body, after=("l", "r")))
    left, right = story.begin("l"), story.begin("r")
    story.fail(left, park=ParkReason.BUG)
    story.apply(operate.cancel(story.facts(), _order("cancel")))
    story.succeed(right)
    assert story.run.status is RunStatus.COMPENSATING


def test_given_a_parked_run_when_it_is_resumed_then_the_fence_rises_and_it_goes_on_from_its_checkpoints() -> None:
    story = Story(line("a", "b"))
    story.run_through("a")
    story.fail(story.begin("a"), park=ParkReason.BUG)
    change = story.apply(operate.resume(story.facts(), _order("resume")))
    assert (story.run.status, story.run.error) == (RunStatus.RUNNING, None)
    assert [(nudge.strand, nudge.gen) for nudge in change.nudges] == [("a", 1)]
    story.run_through("a")
    assert story.run.status is RunStatus.SUCCEEDED


def test_given_a_passed_deadline_when_the_run_is_resumed_then_it_does_not_stop_it_again() -> None:
    story = Story(line("a"), deadline=50.0)
    story.refusal("a")
    story.apply(operate.resume(story.facts(), _order("resume")))
    assert story.run.deadline is None
    assert "run.deadline_lifted" in story.events


def test_given_an_unknown_outcome_when_a_person_resumes_then_they_have_to_find_out_first() -> None:
    with pytest.raises(NotAllowed, match="the outcome of a is unknown"):
        operate.resume(_unknown().facts(), _order("resume"))


def test_given_an_unknown_outcome_when_a_person_says_it_was_done_then_its_output_is_saved_and_the_run_goes_on() -> None:
    story = _unknown(compensate=body)
    change = story.apply(operate.settle(story.facts(), _order("settle"), "a", '{"v":1}'))
    assert story.saved == {"a": False}
    assert story.steps == {"a": StepState.RECORDED}
    assert [(nudge.strand, story.row(nudge.strand).stage) for nudge in change.nudges] == [("a", "b")]


def test_given_an_unknown_outcome_when_a_person_says_it_was_not_done_then_it_is_tried_again() -> None:
    story = _unknown(compensate=body)
    change = story.apply(operate.settle(story.facts(), _order("settle"), "a", None))
    assert story.steps == {"a": StepState.VOID}
    assert [(nudge.strand, story.row(nudge.strand).stage) for nudge in change.nudges] == [("a", "a")]
    assert not any(row.doubt for row in story.attempts.values())


def test_given_a_stage_that_is_not_in_doubt_when_a_person_settles_it_then_it_is_refused() -> None:
    with pytest.raises(NotAllowed, match="is not unknown"):
        operate.settle(_unknown().facts(), _order("settle"), "b", "1")
    with pytest.raises(NotAllowed, match="has no stage 'c'"):
        operate.settle(_unknown().facts(), _order("settle"), "c", "1")


def _failed_undo() -> Story:
    story = Story(line("a", "b"))
    story.run_through("a")
    story.fail(story.begin("a"))
    work = story.begin("undo:b")
    story.apply(undo.undo_failed(story.facts(), work, None, NO))
    work = story.begin("undo:a")
    story.apply(undo.undo_done(story.facts(), work, None))
    assert story.run.status is RunStatus.COMPENSATION_FAILED
    return story


def test_given_a_failed_undo_when_a_person_compensates_again_then_it_is_tried_under_a_higher_fence() -> None:
    story = _failed_undo()
    change = story.apply(operate.compensate(story.facts(), _order("compensate")))
    assert [(nudge.strand, nudge.gen) for nudge in change.nudges] == [("undo:b", 1)]
    assert story.run.status is RunStatus.COMPENSATING


def test_given_a_failed_undo_when_a_person_gives_it_up_then_the_run_is_compensated_and_says_so() -> None:
    story = _failed_undo()
    story.apply(operate.compensate(story.facts(), _order("compensate", skip=("b",))))
    assert story.steps["b"] is StepState.SKIPPED
    assert story.run.status is RunStatus.COMPENSATED
    assert "undo.skipped" in story.events


def test_given_a_passed_pivot_when_a_person_compensates_then_they_have_to_say_that_they_mean_it() -> None:
    story = Story(line("a").stage("p", body, pivot=True).stage("c", body))
    story.run_through("a", "a")
    story.fail(story.begin("a"))
    with pytest.raises(NotAllowed, match="past-pivot"):
        operate.compensate(story.facts(), _order("compensate"))
    change = story.apply(operate.compensate(story.facts(), _order("compensate", past_pivot=True)))
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]
