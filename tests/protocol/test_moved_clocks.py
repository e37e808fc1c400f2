"""Who may declare others dead, and what becomes of times that lie ahead: the database's clock goes back or ahead, which
here is all stored times going the other way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.work import Claimant, Failure, Nudge, RetryDue, Work
from stageflow_durable.state import schema
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Identity
from stageflow_durable.transitions.accept import NewRun

LEASE = 10.0
HOUR = 3600.0
PLAN = Pipeline("p").stage("a", lambda _ctx: None).plan
BUSY = Failure("busy", "transient", doubt=True)


class World:
    """A store, and what no transaction brings about at once."""

    def __init__(self, url: str) -> None:
        schema.upgrade(url)
        self.store = SqlStore(Database(url))
        self.store.register([PLAN])

    def sql(self, statement: str) -> Any:
        with self.store.database.transaction() as connection:
            found = connection.exec_driver_sql(statement)
            return found.fetchall() if found.returns_rows else None

    def joined(self, pid: int, boot: str = "boot", *, steady_for: float = 0.0) -> str:
        owner = self.store.join(Identity("host", pid, boot), LEASE)
        if steady_for:
            self.sql(f"UPDATE stageflow_owners SET steady_since = steady_since - {steady_for} WHERE id = '{owner}'")
        return owner

    def run_out(self, owner: str, ago: float = 1.0) -> None:
        """Its lease did."""
        self.sql(f"UPDATE stageflow_owners SET expires_at = expires_at - {LEASE + ago} WHERE id = '{owner}'")

    def begun(self, run: str = "R") -> Work:
        self.store.create(NewRun(run, "c", PLAN, None, "f", "{}", "{}", "q"))
        claimant = Claimant(self.joined(9), {"p": PLAN}, {})
        work = self.store.begin(Nudge(run, "a", 0, "q"), claimant)
        assert isinstance(work, Work)
        return work

    def clock_moves(self, by: float) -> None:
        for table, columns in TIMES.items():
            changed = ", ".join(f"{name} = {name} - ({by})" for name in columns)
            self.sql(f"UPDATE stageflow_{table} SET {changed}")


TIMES = {
    "owners": ("started_at", "expires_at", "steady_since"),
    "runs": ("created_at", "updated_at"),
    "strands": ("wake_at", "published_at", "began_at", "kill_by"),
    "queues": ("served_at", "free_at"),
    "ticks": ("at",),
}


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    yield made
    made.store.close()


def test_given_a_young_child_of_a_worker_that_has_renewed_for_a_lease_then_it_may_judge(world: World) -> None:
    world.joined(1, "old", steady_for=LEASE + 1)
    child, other = world.joined(2, "old"), world.joined(3, "young")
    dead = world.joined(4, "dead")
    world.run_out(dead)
    assert world.store.may_judge(child)
    assert not world.store.may_judge(other)
    assert world.store.judge(other) == ()
    assert world.store.judge(child) == (dead,)


def test_given_children_that_each_live_for_a_moment_then_the_right_to_judge_goes_from_one_to_the_next(
    world: World,
) -> None:
    world.store.retire(world.joined(1, "old", steady_for=LEASE + 1))
    world.store.retire(world.joined(2, "old"))
    assert world.store.may_judge(world.joined(3, "old"))


def test_given_a_worker_whose_children_have_not_renewed_for_half_a_lease_then_a_new_one_may_not_judge(
    world: World,
) -> None:
    elder = world.joined(1, "old", steady_for=LEASE + 1)
    world.sql(f"UPDATE stageflow_owners SET expires_at = expires_at - {LEASE * 0.6}")
    assert not world.store.may_judge(elder)
    assert not world.store.may_judge(world.joined(2, "old"))
    world.store.renew(elder, LEASE)
    assert not world.store.may_judge(elder), "its own renewals had lapsed: not for one lease"


@pytest.mark.parametrize("by", [HOUR, -HOUR, 45.0, -45.0])
def test_given_a_clock_that_moved_when_somebody_sweeps_then_nobody_who_lives_is_declared_dead(
    world: World, by: float
) -> None:
    judge, living = world.joined(1, steady_for=LEASE + 1), world.joined(2, "other")
    world.clock_moves(by)
    assert world.store.judge(judge) == ()
    assert world.store.renew(judge, LEASE) is not None
    assert world.store.judge(judge) == (), "the other may not have renewed yet"
    world.store.renew(living, LEASE)
    world.sql(f"UPDATE stageflow_owners SET steady_since = steady_since - {LEASE + 2} WHERE id = '{judge}'")
    assert world.store.judge(judge) == ()


@pytest.mark.parametrize("by", [HOUR, -HOUR])
def test_given_a_clock_that_moved_after_an_owner_died_then_it_is_found_a_lease_later(world: World, by: float) -> None:
    judge, dead = world.joined(1, steady_for=LEASE + 1), world.joined(2, "dead")
    world.clock_moves(by)
    world.store.renew(judge, LEASE)
    world.sql(f"UPDATE stageflow_owners SET steady_since = steady_since - {LEASE + 2} WHERE id = '{judge}'")
    assert world.store.judge(judge) == (dead,)


def test_given_a_turn_that_was_taken_by_a_clock_that_has_gone_back_then_the_next_one_is_taken_at_once(
    world: World,
) -> None:
    assert world.store.my_tick("sweep", 1.0)
    assert not world.store.my_tick("sweep", 60.0)
    world.clock_moves(-HOUR)
    assert world.store.my_tick("sweep", 60.0)


def test_given_a_clock_that_went_back_when_a_message_is_lost_then_it_is_missed_at_once(world: World) -> None:
    world.store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q"))
    world.clock_moves(-HOUR)
    assert [place.run for place in world.store.undelivered("q", 0, 1.0, 60.0)] == ["R"]


def test_given_a_queue_that_was_served_by_a_clock_that_has_gone_back_then_what_is_new_does_not_count_as_lost(
    world: World,
) -> None:
    world.store.served({"q": world.store.clock()})
    world.clock_moves(-HOUR)
    world.store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q"))
    assert world.store.undelivered("q", 5, 1.0, 60.0) == []
    world.store.served({"q": 7.0})
    assert world.sql("SELECT served_at FROM stageflow_queues") == [(7.0,)]


def test_given_a_wait_when_the_clock_goes_back_then_it_comes_in_its_time_and_the_times_move_once(world: World) -> None:
    work = world.begun()
    assert isinstance(world.store.retry_later(work, BUSY, 60.0, 60.0), RetryDue)
    world.clock_moves(-HOUR)
    assert world.store.move_times(-HOUR, 1.0, LEASE)
    assert not world.store.move_times(-HOUR, 1.0, LEASE), "every process notices it"
    ((wake_at,),) = world.sql("SELECT wake_at FROM stageflow_strands")
    assert wake_at - world.store.clock() == pytest.approx(60.0, abs=5.0)


def test_given_a_wait_that_began_by_the_moved_clock_then_it_stays(world: World) -> None:
    work = world.begun()
    assert isinstance(world.store.retry_later(work, BUSY, 60.0, 60.0), RetryDue)
    assert world.store.move_times(-HOUR, 30.0, LEASE)
    ((wake_at,),) = world.sql("SELECT wake_at FROM stageflow_strands")
    assert wake_at - world.store.clock() == pytest.approx(60.0, abs=5.0)


def test_given_a_body_that_runs_when_the_clock_goes_ahead_then_its_bound_goes_with_it(world: World) -> None:
    world.begun()
    world.sql("UPDATE stageflow_strands SET kill_by = began_at + 100")
    world.clock_moves(HOUR)
    assert world.store.move_times(HOUR, 1.0, LEASE)
    ((kill_by,),) = world.sql("SELECT kill_by FROM stageflow_strands")
    assert kill_by - world.store.clock() == pytest.approx(100.0, abs=5.0)


def test_given_a_strand_that_was_published_many_times_when_a_worker_becomes_free_then_its_patience_begins_anew(
    world: World,
) -> None:
    world.store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q"))
    world.sql("UPDATE stageflow_strands SET nudges = 8, published_at = published_at - 100")
    assert world.store.undelivered("q", 0, 1.0, 60.0) == [], "256 times a second have not passed"
    world.store.freed(["q"])
    assert [place.run for place in world.store.undelivered("q", 0, 1.0, 60.0)] == ["R"]
    (missed,) = world.store.missed(world.store.undelivered("q", 0, 1.0, 60.0))
    assert world.store.nudged([missed]) == 1
    assert world.store.undelivered("q", 0, 1.0, 60.0) == []


def test_given_many_due_waits_then_they_are_woken_together_but_for_those_that_somebody_woke(world: World) -> None:
    for number in range(5):
        work = world.begun(f"R{number}")
        assert isinstance(world.store.retry_later(work, BUSY, 0.0, 0.0), RetryDue)
    due = world.store.overdue(0.0).due
    assert len(world.store.wake(due[:2])) == 2
    assert sorted(nudge.run_id for (nudge,) in world.store.wake(due)) == sorted(place.run for place in due[2:])
    assert all([event.type for event in world.store.history(place.run)].count("stage.woken") == 1 for place in due)


def test_given_a_run_that_nobody_can_carry_when_the_clock_goes_back_then_it_is_reported_all_the_same(
    world: World,
) -> None:
    world.store.create(NewRun("R", "c", PLAN, None, "f", "{}", "{}", "q"))
    world.store.join(Identity("host", 1, "boot"), LEASE, Profile("e", "b", ("another queue",), {}))
    world.clock_moves(-HOUR)
    world.sql(f"UPDATE stageflow_owners SET expires_at = expires_at - {HOUR}")  # it has renewed since
    a_while_ago = world.store.clock() - 15.0
    assert [run.run_id for run in world.store.unserved(a_while_ago)] == ["R"]
    assert [run.run_id for run in world.store.stuck(a_while_ago)] == ["R"]
