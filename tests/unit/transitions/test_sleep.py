"""A stage that sleeps: when it begins to, what wakes it, and what becomes of it when its run is stopped."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import Failure, Fenced, Refusal
from stageflow_durable.transitions import operate, sleep, start, wake
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Part
from tests.unit.transitions.story import Story, body

DAY = 86_400.0
MOMENT = datetime(1970, 1, 2, tzinfo=UTC)


def asked(_ctx: Any) -> datetime:
    return MOMENT


def between(**options: Any) -> Pipeline[Any, Any]:
    """A sleep between two stages."""
    return Pipeline[Any, Any]("p").stage("a", body, compensate=body).sleep("nap", **options).stage("b", body)


@pytest.fixture
def story() -> Story:
    """A run that sleeps for a day, since 100."""
    story = Story(between(duration=DAY))
    story.run_through("a")
    return story


def woken(story: Story, strand: str = "a") -> Any:
    return story.apply(wake.wake(story.facts(), strand, story.row(strand).gen))


def ordered(story: Story, verb: Any) -> Any:
    return story.apply(verb(story.facts(), operate.Order("R", verb.__name__, "why", "ann")))


def seen(story: Story, strand: str = "a") -> tuple[str, str | None, float | None]:
    row = story.row(strand)
    return str(row.state), row.waiting_for, row.wake_at


# --- falling asleep ---------------------------------------------------------------------------------------------------


def test_given_a_sleep_that_comes_next_when_a_stage_is_done_then_it_is_a_row_without_owner_message_and_attempt() -> (
    None
):
    story = Story(between(duration=timedelta(days=1)))
    change = story.succeed(story.begin("a"), claimant=story.claimant)
    assert (change.granted, change.nudges) == (None, ())
    assert seen(story) == (StrandState.WAITING, WaitingFor.TIME, 100.0 + DAY)
    row = story.row("a")
    assert (row.stage, row.owner, row.attempt, row.published_at) == ("nap", None, 0, None)
    assert [attempt.stage for attempt in story.attempts.values()] == ["a"]
    assert (story.run.status, story.events[-1]) == (RunStatus.WAITING, "stage.asleep")


@pytest.mark.parametrize(
    ("moment", "due"),
    [(MOMENT, DAY), (datetime(1969, 1, 1, tzinfo=UTC), -365 * DAY)],
    ids=["ahead", "passed"],
)
def test_given_a_moment_when_a_sleep_comes_next_then_it_is_due_then_also_where_that_has_passed(
    moment: datetime, due: float
) -> None:
    story = Story(between(until=moment))
    story.run_through("a")
    assert seen(story) == (StrandState.WAITING, WaitingFor.TIME, due)


def test_given_a_sleep_that_is_first_when_a_message_comes_then_it_sleeps_since_the_run_was_accepted() -> None:
    story = Story(Pipeline[Any, Any]("p").sleep("nap", 50).stage("b", body))
    story.clock += 20.0
    assert story.refusal("nap") is Refusal.NOT_DUE
    assert seen(story, "nap") == (StrandState.WAITING, WaitingFor.TIME, 150.0)
    assert story.run.status is RunStatus.WAITING


def test_given_a_branch_that_runs_when_the_other_falls_asleep_then_the_run_is_still_running() -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).stage("b", body, after="a").sleep("nap", 50, after="a"))
    change = story.succeed(story.begin("a"))
    assert [nudge.strand for nudge in change.nudges] == ["b"]
    assert seen(story, "nap") == (StrandState.WAITING, WaitingFor.TIME, 150.0)
    seen_while = story.run.status
    story.run_through("b")
    assert (seen_while, story.run.status) == (RunStatus.RUNNING, RunStatus.WAITING)


# --- a function that says until when ----------------------------------------------------------------------------------


def test_given_a_function_when_it_was_asked_then_its_answer_is_in_the_row_and_nobody_holds_it() -> None:
    story = Story(between(until=asked))
    story.run_through("a")
    assert story.state("a") == StrandState.READY
    work = story.begin("a")
    change = story.apply(sleep.sleep_until(story.facts(), work, DAY))
    assert (change.nudges, seen(story)) == ((), (StrandState.WAITING, WaitingFor.TIME, DAY))
    assert story.row("a").owner is None


def test_given_a_worker_that_was_declared_dead_when_it_says_until_when_then_nobody_hears_it() -> None:
    story = Story(between(until=asked))
    story.run_through("a")
    work = story.begin("a")
    story.strands["a"] = story.row("a")._replace(gen=1)
    assert story.apply(sleep.sleep_until(story.facts(), work, DAY)) == Fenced()


def test_given_a_function_when_it_fails_then_the_run_is_parked_and_a_resume_asks_again() -> None:
    story = Story(between(until=asked))
    story.run_through("a")
    story.fail(story.begin("a"), failure=Failure("no", "bug", doubt=False, vouched=True), park=ParkReason.BUG)
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert [nudge.strand for nudge in ordered(story, operate.resume).nudges] == ["a"]
    assert story.begin("a").stage == "nap"


def test_given_a_run_that_is_cancelled_meanwhile_when_a_function_answers_then_the_run_turns_back() -> None:
    story = Story(between(until=asked))
    story.run_through("a")
    work = story.begin("a")
    ordered(story, operate.cancel)
    story.apply(sleep.sleep_until(story.facts(), work, DAY))
    assert (story.state("a"), story.run.phase, story.state("undo:a")) == ("rest", Phase.BACKWARD, "ready")


# --- waking -----------------------------------------------------------------------------------------------------------


def test_given_a_sleep_when_it_is_not_due_or_a_late_message_comes_then_it_sleeps_on(story: Story) -> None:
    assert woken(story) is None
    assert story.refusal("a") is Refusal.NOT_DUE
    story.clock += 2 * DAY
    assert story.refusal("a") is Refusal.NOT_DUE, (
        "only the sweep wakes it: a message for it was meant for a stage before"
    )


def test_given_a_sleep_when_it_is_due_then_it_is_saved_as_done_and_the_next_stage_is_published(story: Story) -> None:
    story.clock += DAY
    change = woken(story)
    assert isinstance(change, Change)
    assert ([nudge.strand for nudge in change.nudges], seen(story)) == (["a"], (StrandState.READY, None, None))
    assert (story.row("a").stage, story.saved) == ("b", {"a": False, "nap": False})
    assert story.run.status is RunStatus.RUNNING
    assert story.begin("a").stage == "b"


def test_given_a_sleep_that_is_last_when_it_is_over_then_the_run_has_succeeded() -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).sleep("nap", 50))
    story.run_through("a")
    story.clock += 50.0
    assert woken(story).ended
    assert (story.run.status, story.state("a")) == (RunStatus.SUCCEEDED, StrandState.DONE)


def test_given_two_sleeps_in_a_row_when_the_first_is_over_then_the_second_begins() -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).sleep("nap", 50).sleep("more", 70))
    story.run_through("a")
    story.clock += 50.0
    assert woken(story).nudges == ()
    assert seen(story) == (StrandState.WAITING, WaitingFor.TIME, 220.0)
    assert story.run.status is RunStatus.WAITING


def test_given_a_sleep_in_a_branch_when_it_is_over_then_the_join_waits_for_the_other_branch() -> None:
    story = Story(
        Pipeline[Any, Any]("p")
        .stage("a", body)
        .stage("b", body, after="a")
        .sleep("nap", 50, after="a")
        .stage("z", body, after=("b", "nap"))
    )
    story.run_through("a")
    story.clock += 50.0
    assert woken(story, "nap").nudges == ()
    assert [nudge.strand for nudge in story.succeed(story.begin("b")).nudges] == ["z"]


def test_given_a_deadline_that_has_passed_when_a_sleep_is_over_then_the_run_stops(story: Story) -> None:
    story.run = story.run._replace(deadline=100.0 + DAY)
    story.clock += DAY
    woken(story)
    assert (story.run.cause, story.run.phase, "nap" in story.saved) == (Cause.DEADLINE, Phase.BACKWARD, False)


# --- stopping and resuming --------------------------------------------------------------------------------------------


def test_given_a_sleep_when_the_run_is_cancelled_then_what_was_done_before_it_is_undone(story: Story) -> None:
    change = ordered(story, operate.cancel)
    assert ([nudge.strand for nudge in change.nudges], seen(story)) == (["undo:a"], (StrandState.REST, None, None))
    story.clock += 2 * DAY
    assert woken(story) is None


@pytest.mark.parametrize(("passed", "left"), [(DAY / 2, DAY / 2), (2 * DAY, -DAY)], ids=["before", "after"])
def test_given_a_cancelled_sleep_when_the_run_is_resumed_then_it_wakes_when_it_would_have(
    passed: float, left: float
) -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body).sleep("nap", DAY))
    story.run_through("a")
    ordered(story, operate.cancel)
    assert story.run.status is RunStatus.CANCELLED
    story.clock += passed
    assert ordered(story, operate.resume).nudges == ()
    assert seen(story) == (StrandState.WAITING, WaitingFor.TIME, story.clock + left)
    assert (story.run.status, story.row("a").gen) == (RunStatus.WAITING, 1)
    assert wake.wake(story.facts(), "a", 0) is None, "against a sweep that saw it before"


def test_given_a_definition_by_which_a_ready_stage_is_a_sleep_now_when_a_message_comes_then_it_falls_asleep() -> None:
    story = Story(Pipeline[Any, Any]("p", version="1").stage("a", body).stage("nap", body))
    story.run_through("a")
    new = Pipeline[Any, Any]("p", version="2").stage("a", body).sleep("nap", 50).plan
    old, story.plan = story.plan, new
    claimant = story.claimant
    story.plan = old
    story.parts = {Part.DEFINITIONS: {old.digest: 1.0, new.digest: 2.0}}
    change = story.apply(start.begin(story.facts(), story.nudge("a"), claimant))
    assert change.granted is None
    assert seen(story) == (StrandState.WAITING, WaitingFor.TIME, 150.0)
