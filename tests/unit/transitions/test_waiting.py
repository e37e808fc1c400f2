"""What a strand waits for: said by every transition that lets one wait, and by nothing that ends a wait."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.roster import Roster
from stageflow_durable.model.status import StrandState, WaitingFor
from stageflow_durable.model.work import Claimant, Failure
from stageflow_durable.transitions import operate, retry, start, take, wake
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner
from tests.unit.transitions.story import ME, Story, body, line

AWAY = Failure("away", "transient", doubt=True)


def retried(story: Story) -> None:
    work = story.begin("a")
    story.apply(retry.retry_later(story.facts(), work, AWAY, 5.0, 5.0))


def postponed(story: Story) -> None:
    work = story.begin("a")
    story.apply(retry.postpone(story.facts(), work, 5.0))


def handed_back(story: Story) -> None:
    story.parts = {Part.ROSTER: Roster()}  # no worker is alive
    refused = start.begin(story.facts(), story.nudge("a"), Claimant(ME, {}, {}))
    story.apply(refused)


WAITS = {
    "a retry": (retried, WaitingFor.TIME),
    "a business key that another run holds": (postponed, WaitingFor.LIMIT),
    "a definition that no worker knows": (handed_back, WaitingFor.WORKER),
}


@pytest.fixture(params=WAITS)
def waiting(request: Any) -> Story:
    """A run whose strand ``a`` waits, for one thing after the other."""
    story = Story(line("a", "b"))
    wait, what = WAITS[request.param]
    wait(story)
    assert (story.state("a"), story.row("a").waiting_for) == (StrandState.WAITING, what)
    return story


def test_given_a_strand_that_waits_when_its_time_has_come_then_it_waits_for_nothing(waiting: Story) -> None:
    waiting.clock += 100.0
    waiting.apply(wake.wake(waiting.facts(), "a", 0))
    assert (waiting.state("a"), waiting.row("a").waiting_for) == (StrandState.READY, None)


def test_given_a_strand_that_waits_when_a_message_takes_it_then_it_waits_for_nothing(waiting: Story) -> None:
    waiting.clock += 100.0
    waiting.begin("a")
    assert (waiting.state("a"), waiting.row("a").waiting_for) == (StrandState.RUNNING, None)


def test_given_a_strand_that_waits_when_its_run_is_cancelled_and_resumed_then_it_waits_for_nothing(
    waiting: Story,
) -> None:
    for verb, state in ((operate.cancel, StrandState.REST), (operate.resume, StrandState.READY)):
        if verb is operate.resume and waiting.run.phase != "settled":
            return  # it is being undone
        waiting.apply(verb(waiting.facts(), operate.Order("R", verb.__name__, "why", "ann")))
        assert (waiting.state("a"), waiting.row("a").waiting_for) == (state, None)


@pytest.mark.parametrize(
    ("kill_by", "what"), [(None, WaitingFor.WORKER), (105.0, WaitingFor.TIME)], ids=["without a bound", "bounded"]
)
def test_given_an_undo_that_a_lost_process_may_still_disturb_then_it_waits_for_its_end_or_for_that_moment(
    kill_by: float | None, what: WaitingFor
) -> None:
    story = Story(Pipeline[Any, Any]("p").stage("a", body, compensate=body, on_unknown="compensate"))
    story.begin("a")
    story.strands["a"] = story.row("a")._replace(kill_by=kill_by)
    story.lose("a", confirmed=False)
    story.apply(take.take(story.facts(), "a", 0, max_lost=5))
    undo = story.row("undo:a")
    assert (undo.state, undo.waiting_for, undo.wake_at) == (StrandState.WAITING, what, kill_by or UNTIL_CONFIRMED)
    if kill_by is None:
        story.apply(take.release(story.facts(), EndedOwner(ME, "host", 1, "its parent", None)))
    else:
        story.clock = kill_by
        story.apply(wake.wake(story.facts(), "undo:a", 0))
    assert (story.state("undo:a"), story.row("undo:a").waiting_for) == (StrandState.READY, None)


def test_given_an_undo_that_waits_for_two_ends_when_one_is_bounded_then_after_the_other_it_waits_for_that_moment() -> (
    None
):
    story = Story(
        Pipeline[Any, Any]("p")
        .stage("a", body, compensate=body)
        .stage("b", body, after="a", on_unknown="compensate")
        .stage("c", body, after="a", on_unknown="compensate")
    )
    story.run_through("a")
    for strand, kill_by in (("b", None), ("c", 500.0)):
        story.begin(strand)
        story.strands[strand] = story.row(strand)._replace(kill_by=kill_by, owner=f"of {strand}")
        story.owners[f"of {strand}"] = story.owners[ME]._replace(id=f"of {strand}", dead_at=1.0)
    for strand in "bc":
        story.apply(take.take(story.facts(), strand, 0, max_lost=5))
    assert (story.row("undo:a").waiting_for, story.row("undo:a").wake_at) == (WaitingFor.WORKER, UNTIL_CONFIRMED)
    story.apply(take.release(story.facts(), EndedOwner("of b", "host", 1, "its parent", None)))
    assert (story.row("undo:a").waiting_for, story.row("undo:a").wake_at) == (WaitingFor.TIME, 500.0)
