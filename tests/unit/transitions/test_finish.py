"""Finishing a stage: what is saved, what begins, when a run is over."""

from __future__ import annotations

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Fenced
from stageflow_durable.transitions.change import KeyEnd
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.resolve import stop
from stageflow_durable.transitions.rows import HeldKey
from tests.unit.transitions.story import ME, Story, body, line


def _branches() -> Story:
    both = Pipeline("both").stage("l", body, after=(), compensate=body).stage("r", body, after=(), compensate=body)
    return Story(both.stage("join", body, after=("l", "r")))


def test_given_an_owner_that_goes_on_when_a_stage_is_done_then_the_next_begins_in_the_same_change() -> None:
    story = Story(line("a", "b"))
    change = story.succeed(story.begin("a"), claimant=story.claimant)
    assert change.granted.stage == "b"
    assert change.nudges == ()
    assert [event.type for event in change.events] == ["stage.ok"]
    assert change.events[0].data["then"] == {"stage": "b", "attempt": 1, "owner": ME}


def test_given_nobody_who_goes_on_when_a_stage_is_done_then_the_next_is_published() -> None:
    story = Story(line("a", "b"))
    change = story.succeed(story.begin("a"))
    assert change.granted is None
    assert [(nudge.strand, nudge.mark) for nudge in change.nudges] == [("a", story.run.seq)]
    assert (story.row("a").stage, story.state("a")) == ("b", StrandState.READY)


def test_given_the_last_stage_when_it_is_done_then_the_run_has_succeeded() -> None:
    story = Story(line("a"))
    assert story.succeed(story.begin("a")).ended
    assert (story.run.phase, story.run.status) == (Phase.SETTLED, RunStatus.SUCCEEDED)
    assert story.events[-1] == "run.succeeded"


@pytest.mark.parametrize("order", [("l", "r"), ("r", "l")])
def test_given_two_branches_when_the_later_ends_then_the_join_begins_once(order: tuple[str, str]) -> None:
    story = _branches()
    first, second = (story.begin(strand) for strand in order)
    assert story.succeed(first).nudges == ()
    assert "join" not in story.strands
    assert [nudge.strand for nudge in story.succeed(second).nudges] == ["join"]
    story.run_through("join")
    assert story.run.status is RunStatus.SUCCEEDED


def test_given_a_stage_on_another_queue_when_it_is_next_then_it_is_published_there() -> None:
    story = Story(line("a").stage("b", body, queue="other"))
    change = story.succeed(story.begin("a"), claimant=story.claimant)
    assert change.granted is None
    assert change.nudges[0].queue == "other"


def test_given_a_dead_owner_when_it_would_go_on_then_the_outcome_is_saved_and_the_next_is_published() -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")
    story.alive = False
    change = story.succeed(work, claimant=story.claimant)
    assert change.granted is None
    assert [nudge.strand for nudge in change.nudges] == ["a"]
    assert story.saved == {"a": False}


def test_given_a_passed_deadline_when_the_next_would_be_granted_then_it_is_not() -> None:
    story = Story(line("a", "b"), deadline=150.0)
    work = story.begin("a")
    story.clock = 151.0
    assert story.succeed(work, claimant=story.claimant).granted is None


@pytest.mark.parametrize(
    "changed", [{"gen": 1}, {"owner": "other"}, {"stage": "b"}, {"attempt": 2}, {"state": StrandState.REST}]
)
def test_given_a_strand_that_was_taken_when_the_zombie_answers_then_nothing_is_written(
    changed: dict[str, object],
) -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")
    story.strands["a"] = story.row("a")._replace(**changed)  # type: ignore[arg-type]  # columns by name
    assert isinstance(story.succeed(work), Fenced)
    assert story.saved == {}


def test_given_a_skipped_stage_when_it_ends_then_no_undo_is_owed() -> None:
    story = Story(line("a", "b"))
    story.succeed(story.begin("a"), None, skipped=True)
    assert story.steps == {"a": StepState.VOID}
    assert story.saved == {"a": True}


def test_given_another_runs_answer_when_it_takes_the_bodys_place_then_no_undo_is_owed() -> None:
    story = Story(line("a", "b"))
    story.succeed(story.begin("a"), replayed=True)
    assert story.steps == {"a": StepState.VOID}


def test_given_a_stopping_run_when_its_last_stage_ends_well_then_it_has_succeeded_after_all() -> None:
    story = Story(line("a"))
    work = story.begin("a")
    draft = Draft(story.facts())
    stop(draft, Cause.CANCELLED)
    story.apply(draft.done())
    assert story.run.status is RunStatus.STOPPING
    story.succeed(work)
    assert (story.run.status, story.run.cause) == (RunStatus.SUCCEEDED, None)


def test_given_a_stopping_run_when_an_earlier_stage_ends_then_it_is_undone() -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")
    draft = Draft(story.facts())
    stop(draft, Cause.CANCELLED)
    story.apply(draft.done())
    change = story.succeed(work)
    assert story.run.status is RunStatus.COMPENSATING
    assert [nudge.strand for nudge in change.nudges] == ["undo:a"]


def test_given_a_business_key_when_the_stage_is_done_then_it_ends_with_the_result_and_older_keys_are_let_go() -> None:
    story = Story(line("a"))
    work = story.begin("a")
    mine, older = HeldKey("c", "line.a", "k2", "a", 60.0), HeldKey("c", "line.a", "k1", "a", 60.0)
    story.keys = (mine, older)
    change = story.succeed(work, '{"v":1}', key=mine)
    assert [(key.key.key, key.end, key.delta) for key in change.keys] == [
        ("k2", KeyEnd.FINISHED, '{"v":1}'),
        ("k1", KeyEnd.RELEASED, None),
    ]
