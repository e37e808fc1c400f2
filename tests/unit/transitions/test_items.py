"""Items, decided on facts by hand: what needs the run, what is counted, and how many groups there are."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.model.work import Failure, Fenced, Refusal, Refused, Work
from stageflow_durable.transitions import items
from stageflow_durable.transitions.change import Change, Count, OpenItems, RestItems, Table
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.groups import MOST_GROUPS, count_of_groups, group_of
from stageflow_durable.transitions.rows import NEW_STRAND, GroupRow, ItemRow
from tests.unit.transitions.story import ME, QUEUE, RUN, Story, body

NO = Failure("no", "permanent", doubt=True)
LINE = Pipeline[Any, Any]("line").stage("m", body, compensate=body).stage("z", body)


def opened(count: int) -> tuple[Story, Change]:
    """A run whose first stage waits for so many items."""
    story = Story(LINE)
    work = story.begin("m")
    change = story.apply(items.open_items(story.facts(), work, ["{}"] * count))
    assert isinstance(change, Change)
    return story, change


def group(total: int, **columns: Any) -> GroupRow:
    fresh = GroupRow("m", 0, total, running=1, done=0, failed=0, collects=False, digest="0")
    return fresh._replace(**columns)


def item_of(story: Story, of: GroupRow) -> Facts:
    """The first item, which nobody has begun."""
    row = NEW_STRAND._replace(run=RUN, strand="m", stage="m", queue=QUEUE, item=1)
    parts = {Part.STRANDS: {"m": row}, Part.GROUP: of, Part.ITEM: ItemRow(1, "m", 0, "{}"), Part.ALIVE: True}
    parts |= {Part.ATTEMPTS: (), Part.STEPS: {}, Part.SAVED: {}}
    return Facts(story.run, story.plan, story.clock, 0, "0", parts, item=1)


def begun(story: Story, of: GroupRow) -> tuple[Work, Facts]:
    """The first item in hand, and the facts of it."""
    facts = item_of(story, of._replace(running=0))
    change = items.begin(facts, story.nudge("m")._replace(item=1), story.claimant)
    assert isinstance(change, Change)
    assert change.granted is not None
    (row,) = [row for row in change.rows if row.table is Table.STRANDS]
    strand = facts.strands["m"]._replace(**row.columns)
    return change.granted, facts._replace(parts={**facts.parts, Part.STRANDS: {"m": strand}, Part.GROUP: of})


def whole(story: Story, *others: GroupRow) -> Facts:
    """The run, with its groups."""
    facts = story.facts()
    return facts._replace(parts={**facts.parts, Part.GROUPS: {(one.strand, one.grp): one for one in others}})


@pytest.mark.parametrize(("count", "groups"), [(0, 1), (1, 1), (16, 1), (17, 2), (1000, 63), (10_000, MOST_GROUPS)])
def test_neighbours_are_in_different_groups_of_which_there_are_few(count: int, groups: int) -> None:
    assert count_of_groups(count) == groups
    assert [group_of(item, 5, groups) for item in range(5, 5 + groups)] == list(range(groups))


def test_a_stage_waits_for_its_items_and_the_run_counts_as_running() -> None:
    story, change = opened(3)
    assert (story.state("m"), story.row("m").waiting_for) == (StrandState.WAITING, WaitingFor.ITEMS)
    assert (story.run.item_count, story.run.status) == (3, RunStatus.RUNNING)
    assert change.of_items == (OpenItems("m", 1, ("{}",) * 3, 1, collects=False, queue=QUEUE),)
    assert [nudge.address for nudge in change.nudges] == ["m#1", "m#2", "m#3"]
    assert story.refusal("m") is Refusal.NOT_DUE


def test_a_begin_and_an_end_that_is_not_the_last_need_nothing_of_the_run() -> None:
    story, _change = opened(3)
    work, facts = begun(story, group(3))
    assert (work.owner, work.item, work.given and work.given.input) == (ME, 1, "{}")
    change = items.succeed(facts, work, "1")
    assert isinstance(change, Change)
    assert (change.counts, change.run, change.columns) == ((Count("m", 0, running=-1, done=1),), None, {})
    assert {key[1] for _table, key, _how, _columns in change.rows if len(key) > 1} == {1}


def test_the_last_of_a_group_needs_the_run_and_joins_if_each_group_is_over() -> None:
    story, _change = opened(3)
    work, facts = begun(story, group(3, done=2))
    with pytest.raises(NotLoaded) as missing:
        items.succeed(facts, work, "1")
    assert missing.value.part is Part.RUN
    busy = items.succeed(facts, work, "1", run=whole(story, group(3, done=2), group(2, grp=1, done=1)))
    assert isinstance(busy, Change)
    assert busy.run is None
    joined = items.succeed(
        facts, work, "1", run=whole(story, group(3, done=2), group(2, done=2, running=0)._replace(grp=1))
    )
    assert isinstance(joined, Change)
    assert [event.type for event in joined.run.events] == ["stage.joined"]
    assert [nudge.strand for nudge in joined.nudges] == ["m"]


def test_a_failure_stops_the_run_unless_the_stage_collects_them() -> None:
    story, _change = opened(3)
    work, facts = begun(story, group(3))
    with pytest.raises(NotLoaded):
        items.fail(facts, work, NO)
    stopped = items.fail(facts, work, NO, run=whole(story, group(3)))
    assert isinstance(stopped, Change)
    assert stopped.run.columns["phase"] is not Phase.FORWARD
    assert RestItems() in stopped.run.of_items
    collected = items.fail(facts._replace(parts={**facts.parts, Part.GROUP: group(3, collects=True)}), work, NO)
    assert isinstance(collected, Change)
    assert collected.counts == (Count("m", 0, running=-1, failed=1),)


def test_a_run_that_stops_is_resolved_by_the_last_item_that_runs() -> None:
    story, _change = opened(3)
    work, facts = begun(story, group(3, running=2))
    story.run = story.run._replace(phase=Phase.DRAINING, status=RunStatus.STOPPING, cause=None)
    facts = facts._replace(run=story.run)
    with pytest.raises(NotLoaded):
        items.succeed(facts, work, "1")
    change = items.succeed(facts, work, "1", run=whole(story, group(3, running=2)))
    assert isinstance(change, Change)
    assert change.run is None, "another one still runs"


def test_whoever_does_not_hold_the_item_any_more_writes_nothing() -> None:
    story, _change = opened(3)
    work, facts = begun(story, group(3))
    late = work._replace(attempt=7)
    assert isinstance(items.succeed(facts, late, "1"), Fenced)
    assert isinstance(items.retry_later(facts, late, NO, 1.0, 1.0), Fenced)
    assert isinstance(items.fail(facts, late, NO), Fenced)
    assert items.take(facts._replace(parts={**facts.parts, Part.OWNERS: {}}), "m", 0, max_lost=3) is None


def test_a_message_of_a_stopped_run_finds_nothing_to_take() -> None:
    story, _change = opened(3)
    story.run = story.run._replace(phase=Phase.DRAINING)
    refused = items.begin(item_of(story, group(3)), story.nudge("m")._replace(item=1), story.claimant)
    assert isinstance(refused, Refused)
    assert refused.why is Refusal.STOPPED
