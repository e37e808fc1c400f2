"""What an attempt in hand tells is enough for its end along a line; where more is needed, the transition says so."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Failure, Work
from stageflow_durable.transitions import fail, finish, retry, start
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part, SomeStrands
from tests.unit.transitions.story import Story, body, line

AGAIN = Failure("no", "transient", doubt=True)


def known(story: Story, strand: str, *, alone: bool) -> Facts:
    """A run of which one strand is known; ``alone``: it has no other."""
    row = story.row(strand)
    strands: Any = {strand: row} if alone else SomeStrands(row)
    parts = {Part.STRANDS: strands, Part.ALIVE: True}
    return story.facts()._replace(parts=parts, number_free=True)


def whole(story: Story, decide: Any) -> Any:
    """What comes of all facts."""
    return decide(story.facts())


def written(change: Any) -> Any:
    """A change, apart from the facts that it was decided on, and what it grants as far as the facts tell."""
    assert isinstance(change, Change)
    return change._replace(facts=None, granted=change.granted and change.granted._replace(run=None))  # type: ignore[arg-type]  # neither is compared


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize("at", ["a", "b", "c"])
def test_the_end_of_a_stage_on_a_line_needs_no_more_than_its_attempt(at: str, goes_on: bool) -> None:
    story = Story(line("a", "b", "c"))
    for _stage in "abc"[: "abc".index(at)]:
        story.run_through("a")
    work = story.begin("a")
    assert work.stage == at

    def decide(facts: Facts) -> Any:
        return finish.succeed(facts, work, story.claimant if goes_on else None, '"x"')

    assert written(decide(known(story, "a", alone=True))) == written(whole(story, decide))


def test_a_retry_on_a_line_needs_no_more_than_its_attempt() -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")

    def decide(facts: Facts) -> Any:
        return retry.retry_later(facts, work, AGAIN, 5.0, 5.0)

    assert written(decide(known(story, "a", alone=True))) == written(whole(story, decide))


def test_a_begin_needs_its_strand_and_the_life_of_its_owner() -> None:
    story = Story(line("a"))

    def decide(facts: Facts) -> Any:
        return start.begin(facts, story.nudge("a"), story.claimant)

    assert written(decide(known(story, "a", alone=False))) == written(whole(story, decide))


def _missing(story: Story, strand: str, work: Work, decide: Any) -> Part:
    with pytest.raises(NotLoaded) as asked:
        decide(known(story, strand, alone=False), work)
    return asked.value.part


def test_where_branches_meet_the_end_of_one_asks_for_the_others() -> None:
    pipeline = Pipeline("both").stage("l", body, after=()).stage("r", body, after=())
    story = Story(pipeline.stage("join", body, after=("l", "r")))
    work = story.begin("l")
    asked = _missing(story, "l", work, lambda facts, work: finish.succeed(facts, work, story.claimant, "1"))
    assert asked is Part.SAVED


def test_a_failure_asks_for_what_has_to_be_undone() -> None:
    story = Story(line("a", "b"))
    work = story.begin("a")
    with pytest.raises(NotLoaded):
        fail.fail(known(story, "a", alone=True), work, AGAIN, cause="failed", park=None, exhausted=True)  # type: ignore[arg-type]  # its text


def test_a_strand_that_is_not_known_is_never_taken_for_one_that_is_not_there() -> None:
    some = SomeStrands(Story(line("a")).row("a"))
    assert "a" in some
    for ask in (lambda: some["b"], lambda: some.get("b"), lambda: "b" in some, lambda: list(some), lambda: len(some)):
        with pytest.raises(NotLoaded):
            ask()
