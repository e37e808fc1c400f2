"""A begin by a hint is the begin that a look would have led to, and none where the run is not as hinted any more."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Claimant, Done, Hint, Nudge, Refusal, Refused, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.known import LARGE, MOST_OUTPUTS
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Identity, StrandRef
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.operate import Order
from tests.protocol.invariants import SeenInSql, Watch

pytestmark = pytest.mark.postgres

IDS = itertools.count()


def nothing(_ctx: Any) -> None:
    return None


LINE = Pipeline("line").stage("a", nothing, compensate=nothing).stage("b", nothing, pivot=True).stage("c", nothing)
NEWER = Pipeline("line", version="2").stage("a", nothing, compensate=nothing).stage("b", nothing, pivot=True)
BRANCHES = Pipeline("branches").stage("l", nothing, after=()).stage("r", nothing, after=())


class World:
    """A store, an owner, and how many statements its begins take."""

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.database = Database(url)
        self.store = SqlStore(self.database)
        self.store.register([LINE.plan, BRANCHES.plan])
        self.owner = self.store.join(Identity("host", 1, "boot"), 60.0)
        self.claimant = Claimant(self.owner, {"line": LINE.plan, "branches": BRANCHES.plan}, {("line", "b"): 30.0})
        self.asked = 0
        usual = Driver.row

        def counted(driver: Driver, statement: Statement, given: Mapping[str, Any]) -> Any:
            self.asked += 1
            return usual(driver, statement, given)

        monkeypatch.setattr(Driver, "row", counted)

    def new(self, pipeline: Pipeline[Any, Any] = LINE, **options: Any) -> NewRun:
        return NewRun(f"R{next(IDS)}", "c", pipeline.plan, None, "f", "{}", "{}", "q", **options)

    def accepted(self, **options: Any) -> Nudge:
        (nudge,) = self.store.create(self.new(**options)).nudges
        return nudge

    def handed_on(self) -> Nudge:
        """At the second stage, with an output saved."""
        work = self.begun(self.accepted())
        done = self.store.succeed(work, self.claimant, '{"a": 1}')
        assert isinstance(done, Done)
        return done.nudges[0]

    def begun(self, nudge: Nudge) -> Work:
        work = self.store.begin(nudge, self.claimant)
        assert isinstance(work, Work), work
        return work

    def sql(self, statement: str) -> None:
        with self.database.transaction() as connection:
            connection.exec_driver_sql(statement)

    def rows(self, run_id: str) -> list[list[Any]]:
        """What there is of a run, without times, its id and the codes over both."""
        named = {
            "runs": "phase, status, seq, pivot_passed, op_version",
            "strands": "strand, stage, state, gen, owner, attempt, tries, lost, delay, wake_at, published_at, nudges, "
            "round((kill_by - began_at)::numeric, 3)",
            "attempts": "stage, n, owner, state, doubt",
            "saga_steps": "stage, state",
            "events": "seq, type, data",
        }
        with self.database.read() as connection:
            return [
                sorted(map(repr, connection.exec_driver_sql(
                    f"SELECT {columns} FROM stageflow_{table} WHERE {'id' if table == 'runs' else 'run'} = '{run_id}'"
                ).all()))
                for table, columns in named.items()
            ]  # fmt: skip


@pytest.fixture
def world(migrated_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(migrated_url, monkeypatch)
    yield made
    Watch(SeenInSql(made.database)).check()
    made.store.close()


@pytest.mark.parametrize("at", [World.accepted, World.handed_on])
def test_given_a_run_as_hinted_when_it_begins_then_without_a_look_and_with_what_that_would_have_told(
    world: World, at: Callable[[World], Nudge]
) -> None:
    hinted, plain = at(world), at(world)._replace(hint=None)
    assert hinted.hint is not None
    world.asked = 0
    at_once = world.begun(hinted)
    assert world.asked == 1
    looked = world.begun(plain)
    assert world.rows(hinted.run_id) == world.rows(plain.run_id)
    assert at_once.saved == looked.saved == ({"a": ('{"a": 1}', 1)} if at is World.handed_on else None)
    assert at_once.sent_at is not None
    differing = {"run", "seq", "head", "first_at", "began_at", "sent_at", "saved"}
    for name in set(Work._fields) - differing:
        assert getattr(at_once, name) == getattr(looked, name), name
    facts = {name: getattr(at_once.run, name) for name in type(at_once.run)._fields}
    stored = world.store.facts(hinted.run_id)
    assert facts == {name: getattr(stored, name) for name in facts}
    assert (at_once.seq, at_once.head) == (at_once.run.seq, at_once.run.head)
    assert isinstance(world.store.succeed(at_once, world.claimant, "2", go_on=True), Done)


@pytest.mark.parametrize("hinted", [True, False])
@pytest.mark.parametrize(("length", "more"), [(LARGE, 0), (LARGE + 1, 0), (1, MOST_OUTPUTS - 1), (1, MOST_OUTPUTS)])
def test_given_more_than_is_brought_along_when_it_begins_then_it_is_left_to_be_read(
    world: World, hinted: bool, length: int, more: int
) -> None:
    nudge = world.handed_on()
    world.sql(f"UPDATE stageflow_checkpoints SET delta = repeat('1', {length}) WHERE run = '{nudge.run_id}'")
    world.sql(
        "INSERT INTO stageflow_checkpoints (run, stage, skipped, delta, saved_schema, at)"
        f" SELECT '{nudge.run_id}', 'x' || n, mod(n, 2) = 0, CASE mod(n, 2) WHEN 1 THEN '1' END, 1, 4e9 + n"
        f" FROM generate_series(1, {more}) n"
    )
    work = world.begun(nudge if hinted else nudge._replace(hint=None))
    read = world.store.outputs(nudge.run_id)
    assert len(read) == more + 1
    assert work.saved == (read if length <= LARGE and more < MOST_OUTPUTS else None)
    world.sql(f"DELETE FROM stageflow_checkpoints WHERE run = '{nudge.run_id}' AND stage <> 'a'")


def _cancelled(world: World, nudge: Nudge) -> None:
    world.store.order(Order(nudge.run_id, "cancel", "because", "somebody"))


def _begun(world: World, nudge: Nudge) -> None:
    world.begun(nudge._replace(hint=None))


def _late(world: World, nudge: Nudge) -> None:
    world.sql(f"UPDATE stageflow_runs SET deadline = 1 WHERE id = '{nudge.run_id}'")


def _dead(world: World, _nudge: Nudge) -> None:
    world.store.retire(world.owner)


def _waiting(world: World, nudge: Nudge) -> None:
    waits = "state = 'waiting', waiting_for = 'time', wake_at = 4e9"
    world.sql(f"UPDATE stageflow_strands SET {waits} WHERE run = '{nudge.run_id}'")


def _pruned(world: World, nudge: Nudge) -> None:
    for table in ("strands", "attempts", "checkpoints", "saga_steps", "events"):
        world.sql(f"DELETE FROM stageflow_{table} WHERE run = '{nudge.run_id}'")
    world.sql(f"DELETE FROM stageflow_runs WHERE id = '{nudge.run_id}'")


STALE: dict[str, tuple[Callable[[World, Nudge], None], Refusal]] = {
    "cancelled": (_cancelled, Refusal.STOPPED),
    "begun": (_begun, Refusal.NOT_READY),
    "late": (_late, Refusal.STOPPED),
    "by a dead owner": (_dead, Refusal.DEAD_OWNER),
    "handed back": (_waiting, Refusal.NOT_DUE),
    "pruned": (_pruned, Refusal.GONE),
}


@pytest.mark.parametrize(("change", "why"), STALE.values(), ids=STALE)
def test_given_a_hint_that_is_out_of_date_when_the_nudge_comes_then_it_takes_nothing(
    world: World, change: Callable[[World, Nudge], None], why: Refusal
) -> None:
    nudge = world.handed_on()
    change(world, nudge)
    before = world.rows(nudge.run_id)
    refused = world.store.begin(nudge, world.claimant)
    assert isinstance(refused, Refused)
    assert refused.why is why
    if change is not _late:  # whose message stops the run
        assert world.rows(nudge.run_id) == before


def test_given_a_strand_that_was_taken_over_then_the_old_hint_takes_nothing_and_the_new_nudge_does(
    world: World,
) -> None:
    nudge = world.handed_on()
    other = Claimant(world.store.join(Identity("host", 2, "boot"), 60.0), world.claimant.plans, {})
    assert isinstance(world.store.begin(nudge, other), Work)
    world.store.mark_killed("boot", 2)
    taken = world.store.take(StrandRef(nudge.run_id, nudge.strand, nudge.gen), 5)
    refused = world.store.begin(nudge, world.claimant)
    assert isinstance(refused, Refused)
    assert refused.why is Refusal.FENCED
    assert taken is not None
    again = world.begun(taken[0]._replace(hint=nudge.hint))
    assert (again.attempt, again.lost) == (2, 1)


WRONG: dict[str, Callable[[Hint], Hint]] = {
    "another number": lambda hint: hint._replace(seq=hint.seq + 1),
    "another code": lambda hint: hint._replace(head="0" * 64),
    "another stage": lambda hint: hint._replace(stage="c"),
    "a stage that is not": lambda hint: hint._replace(stage="x"),
    "another definition": lambda hint: hint._replace(definition=BRANCHES.plan.digest),
    "a definition that is not known here": lambda hint: hint._replace(definition=NEWER.plan.digest),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_given_a_hint_that_is_wrong_then_the_row_says_what_begins(world: World, wrong: Callable[[Hint], Hint]) -> None:
    nudge = world.handed_on()
    assert nudge.hint is not None
    work = world.begun(nudge._replace(hint=wrong(nudge.hint)))
    assert (work.stage, work.attempt) == ("b", 1)
    assert [event.seq for event in world.store.history(nudge.run_id)] == [1, 2, 3, 4]


def test_given_runs_in_a_batch_then_their_nudges_have_hints_unless_several_strands_start(world: World) -> None:
    lines = world.store.create_many([world.new(), world.new()])
    world.asked = 0
    for created in lines:
        assert not isinstance(created, Exception)
        world.begun(created.nudges[0])
    assert world.asked == 2
    (branches,) = world.store.create_many([world.new(BRANCHES)])
    assert not isinstance(branches, Exception)
    assert [nudge.hint for nudge in branches.nudges] == [None, None]


def test_given_hints_switched_off_then_none_is_made_and_none_is_believed(world: World, migrated_url: str) -> None:
    without = SqlStore(Database(migrated_url), hints=False)
    nudge = world.handed_on()
    world.asked = 0
    work = without.begin(nudge, world.claimant)
    assert isinstance(work, Work)
    assert world.asked == 2  # the look, and the beginning
    done = without.succeed(work, world.claimant, "1")
    assert isinstance(done, Done)
    assert done.nudges[0].hint is None
    assert without.create(world.new()).nudges[0].hint is None
    (created,) = without.create_many([world.new()])
    assert not isinstance(created, Exception)
    assert created.nudges[0].hint is None
    without.close()


@pytest.mark.parametrize(
    "text",
    ["", "x", "1 2 3 4", f"1 {'g' * 64} {'0' * 24} a", f"{'1' * 10} {'0' * 64} {'0' * 24} a", f"1 {'0' * 64} 0 a"],
)  # fmt: skip
def test_given_what_is_no_hint_then_it_is_read_as_none(text: str) -> None:
    assert Hint.read(text) is None


def test_given_a_hint_then_its_text_reads_as_itself() -> None:
    hint = Hint(12, "0a" * 32, LINE.plan.digest, 'a stage\n"with" é signs')
    assert Hint.read(hint.text()) == hint
    nudge = Nudge("R", "a", 0, "q", 12, hint=hint)
    assert nudge.marked(0) == f"12.0 {hint.text()}"
    assert nudge.marked(1) == "12.1"
