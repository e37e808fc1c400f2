"""Failing, stopping, undoing: which way a run goes, and in which order it is undone."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Failure
from stageflow_durable.transitions import retry, take, undo, wake
from stageflow_durable.transitions.change import KeyEnd
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner, HeldKey, OwnerRow
from tests.unit.transitions.story import ME, Story, body, line

VOUCHED = Failure("no", "permanent", doubt=False, vouched=True)


def _undo(story: Story, stage: str) -> Any:
    work = story.begin(f"undo:{stage}")
    return story.apply(undo.undo_done(story.facts(), work, None))


def _wait(story: Story, strand: str, delay: float, drawn: float) -> Any:
    work = story.begin(strand)
    return story.apply(retry.retry_later(story.facts(), work, Failure("away", "transient", doubt=True), delay, drawn))


def test_given_a_failed_stage_when_it_may_have_acted_then_it_is_undone_first_and_what_came_before_after_it() -> None:
    story = Story(line("a", "b"))
    story.run_through("a")
    change = story.fail(story.begin("a"))
    assert (story.run.phase, [nudge.strand for nudge in change.nudges]) == (Phase.BACKWARD, ["undo:b"])
    assert [nudge.strand for nudge in _undo(story, "b").nudges] == ["undo:a"]
    assert _undo(story, "a").ended
    assert story.run.status is RunStatus.COMPENSATED


def test_given_a_stage_that_vouches_when_it_fails_then_it_is_not_undone() -> None:
    story = Story(line("a", "b"))
    story.run_through("a")
    change = story.fail(story.begin("a"), failure=VOUCHED)
    assert story.steps["b"] is StepState.VOID
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]


def test_given_an_earlier_attempt_in_doubt_when_a_later_one_vouches_then_it_is_undone_all_the_same() -> None:
    story = Story(line("a"))
    _wait(story, "a", 0.0, 0.0)
    story.fail(story.begin("a"), failure=VOUCHED)
    assert story.steps["a"] is StepState.INTENDED
    assert story.run.status is RunStatus.COMPENSATING


def test_given_nothing_that_acted_when_a_run_fails_then_it_simply_ends() -> None:
    story = Story(line("a"))
    assert story.fail(story.begin("a"), failure=VOUCHED).ended
    assert story.run.status is RunStatus.FAILED


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"park": ParkReason.BUG}, ParkReason.BUG), ({}, ParkReason.OPERATOR)],
    ids=["bug", "policy"],
)
def test_given_a_reason_to_park_when_a_stage_fails_then_nothing_is_undone(
    options: dict[str, Any], reason: ParkReason
) -> None:
    story = Story(line("a", on_failure="compensate" if options else "park"))
    story.fail(story.begin("a"), **options)
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, reason)


def test_given_a_branch_that_still_runs_when_another_fails_then_the_run_waits_for_it() -> None:
    both = Pipeline("both").stage("l", body, after=(), compensate=body).stage("r", body, after=(), compensate=body)
    story = Story(both.stage("join", body, after=("l", "r")))
    left, right = story.begin("l"), story.begin("r")
    story.fail(left)
    assert (story.run.phase, story.run.status) == (Phase.DRAINING, RunStatus.STOPPING)
    change = story.succeed(right)
    assert {nudge.strand for nudge in change.nudges} == {"undo:l", "undo:r"}


def test_given_a_pivot_that_may_have_acted_when_it_fails_then_a_person_has_to_find_out() -> None:
    story = Story(line("a").stage("p", body, pivot=True))
    story.run_through("a")
    story.fail(story.begin("a"))
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, ParkReason.UNKNOWN)


def test_given_a_failed_undo_when_the_pipeline_goes_on_then_older_steps_are_still_undone() -> None:
    story = Story(line("a", "b"))
    story.run_through("a")
    story.fail(story.begin("a"))
    work = story.begin("undo:b")
    change = story.apply(undo.undo_failed(story.facts(), work, None, Failure("no", "permanent", doubt=True)))
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]
    _undo(story, "a")
    assert story.run.status is RunStatus.COMPENSATION_FAILED


def test_given_a_failed_undo_when_the_pipeline_halts_then_older_steps_stay_owed() -> None:
    story = Story(line("a", "b", on_compensation_failure="halt"))
    story.run_through("a")
    story.fail(story.begin("a"))
    work = story.begin("undo:b")
    story.apply(undo.undo_failed(story.facts(), work, None, Failure("no", "permanent", doubt=True)))
    assert story.run.status is RunStatus.COMPENSATION_FAILED
    assert story.steps["a"] is StepState.RECORDED


def test_given_keys_that_are_held_when_a_run_ends_badly_then_those_in_doubt_stay_taken() -> None:
    story = Story(line("a"))
    work = story.begin("a")
    story.keys = (HeldKey("c", "line.a", "k", "a", 60.0),)
    change = story.fail(work, park=None, failure=VOUCHED)
    assert [key.end for key in change.keys] == [KeyEnd.RELEASED]


# --- retries and sweeps -----------------------------------------------------------------------------------------------


def test_given_an_attempt_to_be_tried_again_when_it_waits_then_it_is_due_at_its_time() -> None:
    story = Story(line("a"))
    change = _wait(story, "a", 8.0, 7.5)
    assert (story.state("a"), story.row("a").wake_at, story.row("a").delay) == (StrandState.WAITING, 108.0, 7.5)
    assert story.run.status is RunStatus.WAITING
    assert change.due_in == 8.0


def test_given_a_due_strand_when_two_sweeps_see_it_then_one_wakes_it() -> None:
    story = Story(line("a"))
    _wait(story, "a", 1.0, 1.0)
    assert story.apply(wake.wake(story.facts(), "a", 0)) is None
    story.clock = 102.0
    assert story.apply(wake.wake(story.facts(), "a", 0)).nudges[0].strand == "a"
    assert story.apply(wake.wake(story.facts(), "a", 0)) is None


def test_given_a_business_key_that_is_taken_when_the_stage_is_postponed_then_the_attempt_counts_for_nothing() -> None:
    story = Story(line("a"))
    work = story.begin("a")
    story.apply(retry.postpone(story.facts(), work, 2.0))
    assert story.row("a").tries == 0
    assert story.steps["a"] is StepState.VOID


def test_given_a_dead_owner_when_its_strand_is_taken_then_the_fence_rises_and_the_stage_is_tried_again() -> None:
    story = Story(line("a"))
    story.begin("a")
    assert take.take(story.facts(), "a", 0, max_lost=5) is None
    story.lose("a")
    change = story.apply(take.take(story.facts(), "a", 0, max_lost=5))
    assert (story.row("a").gen, story.row("a").lost, story.state("a")) == (1, 1, StrandState.READY)
    assert change.nudges[0].gen == 1


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        ({"on_unknown": "park", "compensate": body}, RunStatus.PARKED, ParkReason.UNKNOWN),
        ({"on_unknown": "compensate", "compensate": body}, RunStatus.COMPENSATING, None),
        ({"on_unknown": "compensate", "pivot": True}, RunStatus.PARKED, ParkReason.UNKNOWN),
    ],
)
def test_given_a_stage_that_must_not_be_tried_again_when_its_owner_dies_then_it_is_not(
    options: dict[str, Any], status: RunStatus, reason: ParkReason | None
) -> None:
    story = Story(Pipeline("one").stage("a", body, **options))
    story.begin("a")
    story.lose("a")
    story.apply(take.take(story.facts(), "a", 0, max_lost=5))
    assert (story.run.status, story.run.park_reason) == (status, reason)


def _lost_and_to_be_undone() -> Story:
    story = Story(Pipeline("one").stage("a", body, on_unknown="compensate", compensate=body))
    story.begin("a")
    story.lose("a", confirmed=False)
    story.apply(take.take(story.facts(), "a", 0, max_lost=5))
    return story


def test_given_a_lost_stage_without_a_bound_when_the_end_of_its_owner_is_confirmed_then_its_undo_begins() -> None:
    story = _lost_and_to_be_undone()
    assert (story.state("undo:a"), story.row("undo:a").wake_at) == (StrandState.WAITING, UNTIL_CONFIRMED)
    assert take.release(story.facts(), EndedOwner("another", "host", 2, "itself", None)) is None
    change = story.apply(take.release(story.facts(), EndedOwner(ME, "host", 1, "itself", None)))
    assert story.state("undo:a") == StrandState.READY
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]
    assert [event.type for event in change.events] == ["worker.ended"]
    assert take.release(story.facts(), EndedOwner(ME, "host", 1, "itself", None)) is None


def test_given_an_end_that_a_person_confirmed_then_the_run_says_who_and_why_and_has_another_version() -> None:
    story = _lost_and_to_be_undone()
    before = story.run.op_version
    change = story.apply(take.release(story.facts(), EndedOwner(ME, "host", 1, "ada", "it is off")))
    assert story.run.op_version == before + 1
    assert (change.events[0].type, change.events[0].data["actor"]) == ("operator.confirm-dead", "ada")


def test_given_a_stage_that_keeps_killing_its_process_when_it_is_taken_too_often_then_the_run_is_parked() -> None:
    story = Story(line("a"))
    for gen in range(2):
        story.begin("a")
        story.lose("a")
        story.apply(take.take(story.facts(), "a", gen, max_lost=2))
        story.owners = {ME: OwnerRow(ME, "host", 1, None, False)}
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, ParkReason.POISON)


def test_given_a_deadline_when_it_passes_then_the_run_stops_and_is_undone() -> None:
    story = Story(line("a", "b"), deadline=150.0)
    story.run_through("a")
    assert wake.expire(story.facts()) is None
    story.clock = 150.0
    story.apply(wake.expire(story.facts()))
    assert (story.run.status, story.run.cause) == (RunStatus.COMPENSATING, Cause.DEADLINE)
