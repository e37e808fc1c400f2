"""What a strand tells of the attempt that runs on it, and what is written down when it is over; decided at once
and under the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, select

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Claimant, Done, Work
from stageflow_durable.state import schema
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import attempts, strands
from stageflow_durable.store.values import Identity
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

PLAN = Pipeline("line").stage("a", lambda _ctx: None).stage("b", lambda _ctx: None).stage("c", lambda _ctx: None).plan
TIMEOUT = 30.0


class Line:
    """A run of three stages, the first and the second of which have a timeout."""

    def __init__(self, url: str, *, optimistic: bool) -> None:
        self.database = Database(url)
        self.store = SqlStore(self.database, optimistic=optimistic)
        self.store.register([PLAN])
        self.owner = self.store.join(Identity("host", 1, "boot"), 3600.0)
        self.claimant = Claimant(self.owner, {"line": PLAN}, {("line", "a"): TIMEOUT, ("line", "b"): TIMEOUT})
        (self.nudge,) = self.store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q")).nudges

    def begun(self) -> Work:
        work = self.store.begin(self.nudge, self.claimant)
        assert isinstance(work, Work)
        return work

    def granted(self, work: Work) -> Work:
        done = self.store.succeed(work, self.claimant, "1", go_on=True)
        assert isinstance(done, Done)
        assert done.granted is not None
        return done.granted

    def strand(self) -> Any:
        with self.database.read() as connection:
            return connection.execute(select(strands)).one()

    def over(self) -> list[Any]:
        with self.database.read() as connection:
            return list(connection.execute(select(attempts).order_by(attempts.c.began_at)))


@pytest.fixture(params=[True, False], ids=["optimistic", "locked"])
def line(request: pytest.FixtureRequest, database_url: str) -> Iterator[Line]:
    schema.upgrade(database_url)
    made = Line(database_url, optimistic=request.param)
    yield made
    made.store.close()


def about(moment: float) -> Any:
    """To a millisecond."""
    return pytest.approx(moment, abs=0.001)


def shows(line: Line, work: Work, timeout: float | None) -> None:
    strand = line.strand()
    assert (strand.stage, strand.attempt, strand.owner) == (work.stage, work.attempt, work.owner)
    assert strand.began_at == work.began_at
    assert strand.kill_by == (None if timeout is None else about(work.began_at + timeout))


def later(line: Line, than: float) -> None:
    """The database's clock has moved on."""
    until = time.monotonic() + 5.0
    while line.store.clock() <= than + 0.001:
        assert time.monotonic() < until


def test_given_a_stage_that_begins_then_its_strand_says_since_when_it_runs_and_until_when_it_may(line: Line) -> None:
    first = line.begun()
    shows(line, first, TIMEOUT)
    later(line, first.began_at)
    second = line.granted(first)
    assert second.began_at > first.began_at
    shows(line, second, TIMEOUT)
    later(line, second.began_at)
    shows(line, line.granted(second), None)


def test_given_stages_that_end_then_each_is_written_down_from_its_beginning_to_the_next_ones(line: Line) -> None:
    first = line.begun()
    later(line, first.began_at)
    second = line.granted(first)
    later(line, second.began_at)
    third = line.granted(second)
    assert [(row.stage, row.n, row.owner, row.began_at, row.ended_at) for row in line.over()] == [
        ("a", 1, line.owner, first.began_at, second.began_at),
        ("b", 1, line.owner, second.began_at, third.began_at),
    ]


def test_given_a_commit_whose_answer_was_lost_when_it_is_recalled_then_the_next_stage_is_in_hand_as_it_began(
    line: Line,
) -> None:
    first = line.begun()
    later(line, first.began_at)
    granted = line.granted(first)
    later(line, granted.began_at)
    recalled = line.store.recall(first, line.owner)
    assert isinstance(recalled, Work)
    assert (recalled.stage, recalled.attempt, recalled.began_at) == ("b", 1, granted.began_at)
    line.granted(recalled)
    assert [row.began_at for row in line.over()] == [first.began_at, granted.began_at]


def test_given_nothing_was_granted_when_a_commit_is_recalled_then_what_began_later_is_not_taken_for_a_grant(
    line: Line,
) -> None:
    first = line.begun()
    later(line, first.began_at)
    done = line.store.succeed(first, line.claimant, "1")
    assert isinstance(done, Done)
    (line.nudge,) = done.nudges
    later(line, line.over()[0].ended_at)
    line.begun()
    assert line.store.recall(first, line.owner) is True


@pytest.mark.parametrize("stage", ["a", "b"])
def test_given_a_stage_that_was_tried_on_another_strand_when_it_begins_then_its_number_is_the_next(
    line: Line, stage: str
) -> None:
    tried = {"run": "R", "stage": stage, "direction": "forward", "owner": "o", "state": "retry", "doubt": True}
    with line.database.transaction() as connection:
        connection.execute(insert(attempts), [{**tried, "n": n, "began_at": 1.0, "ended_at": 2.0} for n in (1, 2)])
    work = line.begun()
    if stage == "b":
        work = line.granted(work)
    assert (work.stage, work.attempt) == (stage, 3)
    line.granted(work)
    assert [row.n for row in line.over() if row.stage == stage] == [1, 2, 3]


def lost(line: Line, *, seen_to_end: bool) -> Any:
    """The row of the attempt that runs, after its owner was lost and a sweep has taken the strand."""
    if seen_to_end:
        line.store.mark_killed("boot", 1)
    else:
        line.store.mark_expired(-7200.0)
    (orphan,) = line.store.overdue(0.0).orphans
    assert line.store.take(orphan, max_lost=5) is not None
    return line.over()[-1]


@pytest.mark.parametrize("seen_to_end", [True, False])
@pytest.mark.parametrize("timeout", [TIMEOUT, None])
def test_given_an_owner_that_is_lost_then_its_attempt_is_written_down_in_doubt_and_until_when_it_may_act(
    line: Line, timeout: float | None, seen_to_end: bool
) -> None:
    work = line.begun()
    if timeout is None:
        work = line.granted(line.granted(work))
    later(line, work.began_at)
    row = lost(line, seen_to_end=seen_to_end)
    assert (row.stage, row.n, row.owner, row.state, row.doubt) == (work.stage, 1, line.owner, "unknown", True)
    assert row.began_at == work.began_at < row.ended_at
    if seen_to_end:
        assert row.kill_by == row.ended_at
    else:
        assert row.kill_by == (UNTIL_CONFIRMED if timeout is None else about(work.began_at + timeout))
    assert line.store.run("R").stage(work.stage).lost == 1
    assert line.store.recall(work, line.owner) is False


def test_given_a_stage_that_is_skipped_then_what_begins_with_its_end_has_an_event_of_its_own(line: Line) -> None:
    done = line.store.succeed(line.begun(), line.claimant, None, skipped=True, go_on=True)
    assert isinstance(done, Done)
    assert done.granted is not None
    line.granted(done.granted)
    told = line.store.history("R")
    assert [event.type for event in told] == ["run.accepted", "stage.begun", "stage.skipped", "stage.begun", "stage.ok"]
    assert told[3].data == {"stage": "b", "attempt": 1, "owner": line.owner}
    assert told[4].data["then"] == {"stage": "c", "attempt": 1, "owner": line.owner}
    assert ["then" in event.data for event in told] == [False, False, False, False, True]
