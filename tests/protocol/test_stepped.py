"""What SQLite cannot show: two PostgreSQL sessions, one of them held before each of its statements in turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from stageflow_durable.errors import OperatorConflict
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, Phase
from stageflow_durable.model.work import Claimant, Done, Failure, Fenced, Nudge, Refused, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Identity, StrandRef
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.operate import Order
from tests.protocol.invariants import SeenInSql, Watch
from tests.protocol.stepping import Act, Stage

pytestmark = pytest.mark.postgres

MOST = 40
"""More statements than any transaction has."""


def nothing(_ctx: Any) -> None:
    return None


LINE = Pipeline("line").stage("a", nothing, compensate=nothing).stage("b", nothing, compensate=nothing)
FORK = (
    Pipeline("fork")
    .stage("l", nothing, after=())
    .stage("r", nothing, after=(), compensate=nothing)
    .stage("join", nothing, after=("l", "r"))
)
PLANS = {pipeline.name: pipeline.plan for pipeline in (LINE, FORK)}


IDS = itertools.count()


class World:
    """A migrated database with two owners."""

    def __init__(self, url: str, stage: Stage) -> None:
        self.stage = stage
        self.database = Database(url)
        self.store = SqlStore(self.database, optimistic=False)
        self.watch = Watch(SeenInSql(self.database))
        self.store.register(list(PLANS.values()))
        self.owners = [self.store.join(Identity("host", pid, "boot"), 60.0) for pid in (1, 2)]

    def claimant(self, number: int) -> Claimant:
        return Claimant(self.owners[number], PLANS, {})

    def run(self, pipeline: Pipeline[Any, Any]) -> str:
        run_id = f"R{next(IDS)}"
        self.store.create(NewRun(run_id, "c", pipeline.plan, None, "f", "{}", "{}", "q"))
        return run_id

    def begun(self, run_id: str, strand: str, number: int) -> Work:
        work = self.store.begin(Nudge(run_id, strand, 0, "q"), self.claimant(number))
        assert isinstance(work, Work)
        return work

    def play(self, at: int, first: Act, second: Act) -> tuple[Any, Any, bool]:
        """The first held before its ``at``-th statement; their answers, and whether it was over before."""
        played = self.stage.interleave((first, second), at)
        return (*played.answers, not played.stopped)

    def holds(self) -> None:
        self.watch.check()

    def checkpoints(self, run_id: str) -> set[str]:
        return set(self.store.outputs(run_id))


@pytest.fixture(scope="module")
def stage(migrated_url: str) -> Iterator[Stage]:
    made = Stage(migrated_url, 2, optimistic=False)
    yield made
    made.close()


@pytest.fixture
def world(migrated_url: str, stage: Stage) -> Iterator[World]:
    made = World(migrated_url, stage)
    yield made
    made.database.dispose()


def every_step(world: World, scene: Callable[[int], bool]) -> int:
    """Play the scene with the first session held before statement 0, 1, 2, … until it has no more; how many that
    were.
    """
    for at in range(MOST):
        over = scene(at)
        world.holds()
        if over:
            return at
    raise AssertionError("the first session never ended")


def order(run_id: str, verb: str) -> Order:
    return Order(run_id, verb, "because", "tester")


def test_given_a_cancel_and_a_begin_at_once_then_one_of_them_is_first_and_the_other_sees_it(world: World) -> None:
    def scene(at: int) -> bool:
        run_id = world.run(LINE)
        nudge = Nudge(run_id, "a", 0, "q")
        begun, _cancelled, over = world.play(
            at, lambda store: store.begin(nudge, world.claimant(0)), lambda store: store.order(order(run_id, "cancel"))
        )
        facts = world.store.facts(run_id)
        assert facts is not None
        if isinstance(begun, Refused):
            assert facts.status == "cancelled"
        else:
            assert facts.phase is Phase.DRAINING
        return over

    assert every_step(world, scene) > 5


def test_given_a_begin_while_a_cancel_is_held_then_one_of_them_is_first(world: World) -> None:
    def scene(at: int) -> bool:
        run_id = world.run(LINE)
        _, begun, over = world.play(
            at,
            lambda store: store.order(order(run_id, "cancel")),
            lambda store: store.begin(Nudge(run_id, "a", 0, "q"), world.claimant(1)),
        )
        facts = world.store.facts(run_id)
        assert facts is not None
        assert (facts.status == "cancelled") == isinstance(begun, Refused)
        return over

    assert every_step(world, scene) > 3


def test_given_two_branches_that_end_at_once_then_exactly_one_of_them_begins_the_join(world: World) -> None:
    def scene(at: int) -> bool:
        run_id = world.run(FORK)
        left, right = world.begun(run_id, "l", 0), world.begun(run_id, "r", 1)
        one, two, over = world.play(
            at,
            lambda store: store.succeed(left, world.claimant(0), "1", go_on=True),
            lambda store: store.succeed(right, world.claimant(1), "2", go_on=True),
        )
        assert isinstance(one, Done)
        assert isinstance(two, Done)
        granted = [done.granted.stage for done in (one, two) if done.granted is not None]
        assert granted == ["join"]
        return over

    assert every_step(world, scene) > 8


def test_given_a_branch_that_fails_while_the_other_commits_then_what_was_done_is_undone(world: World) -> None:
    def scene(at: int) -> bool:
        run_id = world.run(FORK)
        left, right = world.begun(run_id, "l", 0), world.begun(run_id, "r", 1)
        failure = Failure("no", "permanent", doubt=True)
        _, done, over = world.play(
            at,
            lambda store: store.succeed(right, world.claimant(1), "2"),
            lambda store: store.fail(left, failure, cause=Cause.FAILED, park=None, exhausted=False),
        )
        assert isinstance(done, Done)
        facts = world.store.facts(run_id)
        assert facts is not None
        assert facts.phase is Phase.BACKWARD
        assert world.checkpoints(run_id) == {"r"}
        return over

    assert every_step(world, scene) > 8


def test_given_a_zombie_that_commits_while_its_strand_is_taken_then_it_is_saved_or_refused_never_both(
    world: World,
) -> None:
    def scene(at: int) -> bool:
        zombie = world.store.join(Identity("host", 99, f"boot{at}"), 60.0)
        run_id = world.run(LINE)
        work = world.store.begin(Nudge(run_id, "a", 0, "q"), Claimant(zombie, PLANS, {}))
        assert isinstance(work, Work)
        world.store.mark_killed(f"boot{at}", 99)
        place = StrandRef(run_id, "a", 0)
        saved, taken, over = world.play(
            at,
            lambda store: store.succeed(work, Claimant(zombie, PLANS, {}), "1", go_on=True),
            lambda store: store.take(place, 5),
        )
        assert isinstance(saved, Fenced) == (taken is not None)
        assert world.checkpoints(run_id) == (set() if isinstance(saved, Fenced) else {"a"})
        return over

    assert every_step(world, scene) > 5


def test_given_two_sweeps_that_take_at_once_then_the_fence_rises_once(world: World) -> None:
    def scene(at: int) -> bool:
        dead = world.store.join(Identity("host", 98, f"gone{at}"), 60.0)
        run_id = world.run(LINE)
        world.store.begin(Nudge(run_id, "a", 0, "q"), Claimant(dead, PLANS, {}))
        world.store.mark_killed(f"gone{at}", 98)
        place = StrandRef(run_id, "a", 0)
        one, two, over = world.play(at, lambda store: store.take(place, 5), lambda store: store.take(place, 5))
        assert [one, two].count(None) == 1
        (nudge,) = one or two
        assert nudge.gen == 1
        return over

    assert every_step(world, scene) > 5


def test_given_one_key_submitted_twice_at_once_then_there_is_one_run(world: World) -> None:
    def scene(at: int) -> bool:
        new = [NewRun(f"K{at}{name}", "c", LINE.plan, f"key{at}", "f", "{}", "{}", "q") for name in "xy"]
        one, two, over = world.play(at, lambda store: store.create(new[0]), lambda store: store.create(new[1]))
        assert not isinstance(one, Exception), one
        assert not isinstance(two, Exception), two
        assert one.run_id == two.run_id
        assert {one.replayed, two.replayed} == {True, False}
        return over

    assert every_step(world, scene) > 3


def test_given_resume_and_compensate_from_one_version_then_one_wins_and_the_other_gets_a_conflict(world: World) -> None:
    def scene(at: int) -> bool:
        run_id = world.run(LINE)
        work = world.begun(run_id, "a", 0)
        world.store.succeed(work, world.claimant(0), "1")
        work = world.begun(run_id, "a", 0)
        failure = Failure("odd", "bug", doubt=True)
        world.store.fail(work, failure, cause=Cause.FAILED, park=ParkReason.BUG, exhausted=False)
        facts = world.store.facts(run_id)
        assert facts is not None
        seen = facts.op_version
        one, two, over = world.play(
            at,
            lambda store: store.order(Order(run_id, "resume", "r", "a", seen)),
            lambda store: store.order(Order(run_id, "compensate", "r", "b", seen)),
        )
        conflicts = [answer for answer in (one, two) if isinstance(answer, OperatorConflict)]
        assert len(conflicts) == 1
        return over

    assert every_step(world, scene) > 5
