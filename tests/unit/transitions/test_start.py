"""Beginning: who may take what, and what is written before the action."""

from __future__ import annotations

import pytest

from stageflow_durable.model.status import ParkReason, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Claimant, Refusal
from stageflow_durable.transitions import start
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Part
from tests.unit.transitions.story import ME, Story, body, line, needed


def test_given_a_ready_strand_when_it_is_begun_then_the_intent_to_undo_is_written_with_the_attempt() -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")
    assert (work.stage, work.attempt, work.owner) == ("a", 1, ME)
    assert story.steps == {"a": StepState.INTENDED}
    assert story.state("a") == StrandState.RUNNING
    assert story.run.status is RunStatus.RUNNING
    assert story.events == ["stage.begun"]


def test_given_a_begun_strand_when_the_message_comes_twice_then_there_is_nothing_to_take() -> None:
    story = Story(line("a"))
    story.begin("a")
    before = story.run.seq
    assert story.refusal("a") is Refusal.NOT_READY
    assert story.run.seq == before


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"gen": 1}, Refusal.FENCED),
        ({"state": "waiting", "wake_at": 200.0}, Refusal.NOT_DUE),
        ({"direction": "backward"}, Refusal.STOPPED),
        ({"state": "rest"}, Refusal.NOT_READY),
    ],
)
def test_given_a_strand_that_is_not_to_be_taken_when_a_message_names_it_then_it_says_why(
    changed: dict[str, object], why: Refusal
) -> None:
    story = Story(line("a"))
    story.strands["a"] = story.row("a")._replace(**changed)  # type: ignore[arg-type]  # columns by name
    assert story.refusal("a", gen=0) is why
    assert story.events == []


def test_given_an_owner_that_was_declared_dead_when_it_asks_then_it_gets_nothing() -> None:
    story = Story(line("a"))
    story.alive = False
    assert story.refusal("a") is Refusal.DEAD_OWNER


def test_given_a_passed_deadline_when_a_message_comes_then_the_run_stops_instead() -> None:
    story = Story(line("a"), deadline=50.0)
    assert story.refusal("a") is Refusal.STOPPED
    assert story.run.status is RunStatus.CANCELLED


def test_given_a_process_that_does_not_know_the_pipeline_when_it_gets_its_message_then_the_history_does_not_grow() -> (
    None
):
    story = Story(line("a"))
    decided = story.apply(start.begin(story.facts(), story.nudge("a"), Claimant(ME, {}, {})))
    assert isinstance(decided, Change)
    assert decided.refused is not None
    assert decided.refused.why is Refusal.HANDED_BACK
    assert decided.events == ()
    assert story.state("a") == StrandState.WAITING


def test_given_a_newer_definition_that_fits_when_it_begins_then_the_run_moves_to_it() -> None:
    story, newer = Story(line("a")), line("a", "b").plan
    story.parts[Part.DEFINITIONS] = {story.plan.digest: 1.0, newer.digest: 2.0}
    claimant = Claimant(ME, {newer.pipeline: newer}, {})
    decided = story.apply(start.begin(story.facts(), story.nudge("a"), claimant))
    assert decided.granted.plan is newer
    assert story.run.definition == newer.digest
    assert story.events == ["run.migrated", "stage.begun"]


def test_given_the_newest_definition_without_the_stage_when_it_begins_then_a_person_has_to_look() -> None:
    story, newer = Story(line("a")), line("b").plan
    story.parts[Part.DEFINITIONS] = {story.plan.digest: 1.0, newer.digest: 2.0}
    claimant = Claimant(ME, {newer.pipeline: newer}, {})
    story.apply(start.begin(story.facts(), story.nudge("a"), claimant))
    assert (story.run.status, story.run.park_reason) == (RunStatus.PARKED, ParkReason.DEFINITION)


def test_given_an_old_worker_when_it_meets_a_run_of_a_newer_definition_then_it_hands_it_back() -> None:
    story, older = Story(line("a", "b")), line("a").plan
    story.parts[Part.DEFINITIONS] = {older.digest: 1.0, story.plan.digest: 2.0}
    claimant = Claimant(ME, {older.pipeline: older}, {})
    decided = story.apply(start.begin(story.facts(), story.nudge("a"), claimant))
    assert decided.refused.why is Refusal.HANDED_BACK
    assert story.run.definition == story.plan.digest


def test_given_a_pivot_when_it_begins_then_it_counts_as_passed() -> None:
    story = Story(line("a").stage("p", body, pivot=True))
    story.run_through("a")
    story.begin("a")
    assert story.run.pivot_passed


def test_a_begin_asks_for_no_more_than_strands_owner_and_attempts() -> None:
    story = Story(line("a"))
    asked = needed(story.facts(), lambda facts: start.begin(facts, story.nudge("a"), story.claimant))
    assert asked == [Part.STRANDS, Part.ALIVE, Part.ATTEMPTS]
