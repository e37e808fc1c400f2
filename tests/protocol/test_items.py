"""Stages with items on each store: each item by itself, one join, and nobody waits for the run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason, RunStatus, WaitingFor
from stageflow_durable.model.work import Claimant, Done, Failure, Fenced, Nudge, Refusal, Refused, RetryDue, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.values import Fork, Identity, StrandRef
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.operate import Order
from tests.protocol.invariants import Seen, SeenInMemory, SeenInSql, Watch
from tests.services.rows import change_rows, rows_in

AUDIT_KEY = b"the audit key of these tests"
LEASE = 3600.0
NO = Failure("no", "permanent", doubt=True)


def nothing(_ctx: Any) -> None:
    return None


MANY = Pipeline[Any, Any]("many").stage("a", nothing, compensate=nothing).stage("m", nothing, compensate=nothing)
MANY = MANY.stage("z", nothing)
STRICT = Pipeline[Any, Any]("strict").stage("m", nothing, on_unknown="park")


class Many:
    """Runs of three stages, the second of which has items. Every invariant holds after each step."""

    def __init__(self, url: str | None) -> None:
        """``url``: of a database; None: in memory."""
        self.store, seen = _in_memory() if url is None else _in_sql(url)
        self.watch = Watch(seen, AUDIT_KEY)
        plans = {pipeline.name: pipeline.plan for pipeline in (MANY, STRICT)}
        self.store.register(list(plans.values()))
        self.me = Claimant(self.store.join(Identity("host", 1, "boot"), LEASE), plans, {})
        self.gone = Claimant(self.store.join(Identity("host", 2, "boot"), LEASE), plans, {})

    def opened(self, run: str, count: int, *, collects: bool = False, watched: bool = True) -> tuple[Nudge, ...]:
        """A run that stands at its second stage; the messages of the items."""
        self.store.create(NewRun(run, "c", MANY.plan, None, "f", "{}", "{}", "q"))
        first = self.store.begin(Nudge(run, "a", 0, "q"), self.me)
        assert isinstance(first, Work)
        done = self.store.succeed(first, self.me, "1", go_on=True)
        assert isinstance(done, Done)
        assert done.granted is not None
        opened = self.store.open_items(done.granted, [f'{{"n":{n}}}' for n in range(count)], collects=collects)
        assert isinstance(opened, Done)
        if watched:
            self.watch.check()
        return opened.nudges

    def begin(self, nudge: Nudge, claimant: Claimant | None = None) -> Work:
        """Somebody has it in hand."""
        work = self.store.begin(nudge, claimant or self.me)
        assert isinstance(work, Work), work
        return work

    def done(self, nudge: Nudge) -> Done:
        """Begun and ended."""
        ended = self.store.succeed(self.begin(nudge), self.me, '{"of":1}')
        assert isinstance(ended, Done)
        return ended

    def order(self, run: str, verb: str) -> tuple[Nudge, ...]:
        """A person's word."""
        nudges = self.store.order(Order(run, verb, "because", "somebody"))
        self.watch.check()
        return nudges

    def ready(self, run: str) -> list[Nudge]:
        """What a sweep publishes anew, having recorded it."""
        self.change("strands", lambda row: row.state == "ready", published_at=None)
        missed = self.store.missed([ref for ref in self.store.undelivered("q", 0, 0.0, 0.0) if ref.run == run])
        assert self.store.nudged(missed) == len(missed)
        self.watch.check()
        return [one.nudge for one in missed]

    def change(self, table: str, which: Callable[[Any], bool], **columns: Any) -> None:
        """Time that has passed."""
        change_rows(self.store, table, which, **columns)

    def rows(self, table: str, run: str = "R") -> list[dict[str, Any]]:
        """A look."""
        return [row for row in rows_in(self.store, table) if row["run"] == run]


def _in_sql(url: str) -> tuple[SqlStore | MemoryStore, Seen]:
    database = Database(url)
    return SqlStore(database, AUDIT_KEY), SeenInSql(database)


def _in_memory() -> tuple[SqlStore | MemoryStore, Seen]:
    store = MemoryStore(AUDIT_KEY)
    return store, SeenInMemory(store._tables)


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def unwatched(request: pytest.FixtureRequest) -> Iterator[Many]:
    """A store that nobody looks at in between, of each kind."""
    in_memory = request.param == "memory"
    made = Many(None if in_memory else request.getfixturevalue(f"migrated_{request.param}_url"))
    yield made
    made.store.close()


@pytest.fixture
def many(unwatched: Many) -> Iterator[Many]:
    """A store, and every invariant holds at the end."""
    yield unwatched
    unwatched.watch.check()


def test_a_stage_goes_on_once_when_each_of_its_items_is_done(many: Many) -> None:
    nudges = many.opened("R", 20)
    assert [nudge.address for nudge in nudges[:2]] == ["m#1", "m#2"]
    assert many.store.run("R").stages[1].waiting_for is WaitingFor.ITEMS
    ends = [many.done(nudge) for nudge in nudges]
    joins = [nudge for end in ends for nudge in end.nudges]
    assert [(nudge.strand, nudge.item) for nudge in joins] == [("a", 0)], "the strand of the line that goes on"
    assert many.store.outputs("R")["m"].delta == '{"done":20,"failed":0}'
    last = many.done(joins[0])
    assert last.ended
    assert many.store.run("R").status is RunStatus.SUCCEEDED


def test_an_item_brings_its_input_and_its_undo_the_output_that_it_saved(many: Many) -> None:
    nudges = many.opened("R", 3)
    work = many.begin(nudges[1])
    assert work.given is not None
    assert (work.item, work.given.input, work.given.output) == (2, '{"n":1}', None)
    many.store.succeed(work, many.me, '{"of":2}')
    (stage,) = many.order("R", "cancel")
    opened = many.store.begin(stage, many.me)
    assert isinstance(opened, Refused)
    (undo,) = many.ready("R")
    undoing = many.begin(undo)
    assert undoing.given is not None
    assert undoing.given.output is not None
    assert (undoing.undoing, undoing.item, undoing.given.output.delta) == (True, 2, '{"of":2}')


def test_a_stage_without_items_to_carry_out_goes_on_at_once(many: Many) -> None:
    (onward,) = many.opened("R", 0)
    assert (onward.strand, onward.item) == ("a", 0)
    assert many.done(onward).ended


def test_an_item_is_tried_again_by_itself_and_a_late_answer_is_refused(many: Many) -> None:
    nudges = many.opened("R", 2)
    work = many.begin(nudges[0])
    waiting = many.store.retry_later(work, Failure("busy", "transient", doubt=True), 5.0, 5.0)
    assert isinstance(waiting, RetryDue)
    assert waiting.nudge.address == "m#1"
    many.watch.check()
    assert isinstance(many.store.succeed(work, many.me, "1"), Fenced)
    assert isinstance(many.store.begin(nudges[0], many.me), Refused)
    many.change("strands", lambda row: row.state == "waiting" and row.wake_at is not None, wake_at=1.0)
    due = many.store.overdue(0.0).due
    assert [(place.strand, place.item) for place in due] == [("m", 1)]
    ((nudge,),) = many.store.wake(due)
    many.watch.check()
    again = many.begin(nudge)
    assert (again.attempt, again.tries) == (2, 1)
    many.store.succeed(again, many.me, "1")
    assert len(many.done(nudges[1]).nudges) == 1


def test_an_item_shows_its_own_progress_until_its_attempt_is_over(many: Many) -> None:
    nudges = many.opened("R", 2)
    work, other = many.begin(nudges[0]), many.begin(nudges[1])
    many.store.report(work, '"half"')
    many.store.succeed(other, many.me, "1")
    many.store.report(other, '"too late"')
    assert {row["item"]: row["progress"] for row in many.rows("strands")} == {0: None, 1: '"half"', 2: None}


def test_an_item_that_fails_stops_the_run_and_the_others_are_undone(many: Many) -> None:
    nudges = many.opened("R", 5)
    many.done(nudges[0])
    running, failing = many.begin(nudges[1]), many.begin(nudges[2])
    failed = many.store.fail(failing, NO, cause=Cause.FAILED, park=None, exhausted=False)
    assert isinstance(failed, Done)
    many.watch.check()
    refused = many.store.begin(nudges[3], many.me)
    assert isinstance(refused, Refused)
    assert refused.why is Refusal.STOPPED
    ended = many.store.succeed(running, many.me, "1")
    assert isinstance(ended, Done)
    (stage,) = ended.nudges
    many.watch.check()
    assert many.store.run("R").error == "item 3: no"
    many.store.begin(stage, many.me)
    undos = many.ready("R")
    assert [nudge.address for nudge in undos] == ["undo:m#1", "undo:m#2", "undo:m#3"]
    ends = [many.store.undo_done(many.begin(undo), many.me, go_on=False) for undo in undos]
    many.watch.check()
    ((first,),) = [end.nudges for end in ends if isinstance(end, Done) and end.nudges]
    assert first.strand == "undo:a"
    undoing = many.begin(first)
    many.watch.check()
    many.store.undo_done(undoing, many.me, go_on=False)
    assert many.store.run("R").status is RunStatus.COMPENSATED


def test_where_failures_are_collected_the_others_go_on(many: Many) -> None:
    nudges = many.opened("R", 3, collects=True)
    many.store.fail(many.begin(nudges[0]), NO, cause=Cause.FAILED, park=None, exhausted=True)
    many.watch.check()
    many.done(nudges[1])
    (onward,) = many.done(nudges[2]).nudges
    assert many.store.outputs("R")["m"].delta == '{"done":2,"failed":1}'
    assert many.done(onward).ended


def test_a_parked_run_goes_on_with_the_items_that_are_left(many: Many) -> None:
    nudges = many.opened("R", 3)
    many.done(nudges[0])
    many.store.fail(many.begin(nudges[1]), NO, cause=Cause.FAILED, park=ParkReason.BUG, exhausted=False)
    assert many.store.run("R").status is RunStatus.PARKED
    assert many.order("R", "resume") == ()
    left = many.ready("R")
    assert [(nudge.address, nudge.gen) for nudge in left] == [("m#2", 1), ("m#3", 1)]
    assert isinstance(many.store.begin(nudges[2], many.me), Refused), "a message of before"
    ends = [many.done(nudge) for nudge in left]
    assert [len(end.nudges) for end in ends] == [0, 1]


def test_work_of_a_dead_owner_is_taken_item_by_item(many: Many) -> None:
    nudges = many.opened("R", 2, collects=True)
    work = many.begin(nudges[0], many.gone)
    many.store.mark_killed("boot", 2)
    (orphan,) = many.store.overdue(0.0).orphans
    assert (orphan.strand, orphan.item) == ("m", 1)
    taken = many.store.take(orphan, 5)
    assert taken is not None
    many.watch.check()
    assert isinstance(many.store.succeed(work, many.gone, "1"), Fenced)
    again = many.begin(taken[0])
    assert (again.attempt, again.lost) == (2, 1)
    many.store.succeed(again, many.me, "1")
    (onward,) = many.done(nudges[1]).nudges
    assert many.done(onward).ended


def test_an_undo_waits_for_the_end_of_a_worker_that_was_lost_in_an_item(many: Many) -> None:
    nudges = many.opened("R", 2)
    many.begin(nudges[0], many.gone)
    many.order("R", "cancel")
    many.change("owners", lambda row: row.pid == 2, dead_at=2.0, expires_at=2.0)
    assert many.store.take(StrandRef("R", "m", 0, item=1), 5) == ()
    many.watch.check()
    undo_of_stage = many.store.run("R").stages[1].undo
    assert undo_of_stage is not None
    assert undo_of_stage.waiting_for is WaitingFor.WORKER
    assert many.store.confirm(many.gone.owner, "somebody")
    (undo,) = many.store.release("R", many.gone.owner)
    many.watch.check()
    many.store.begin(undo, many.me)
    (of_item,) = many.ready("R")
    assert of_item.address == "undo:m#1"


def test_undos_that_failed_are_tried_again_item_by_item(many: Many) -> None:
    nudges = many.opened("R", 2)
    for work in [many.begin(nudge) for nudge in nudges]:
        many.store.fail(work, NO, cause=Cause.CANCELLED, park=None, exhausted=False)
    many.watch.check()
    stage = next(nudge for nudge in many.ready("R") if not nudge.item)
    many.store.begin(stage, many.me)
    done, undo = [nudge for nudge in many.ready("R") if nudge.item]
    many.store.undo_done(many.begin(done), many.me, go_on=False)
    many.store.undo_failed(many.begin(undo), many.me, NO, go_on=False)
    many.watch.check()
    (of_a,) = many.ready("R")
    undoing = many.begin(of_a)
    many.watch.check()
    many.store.undo_done(undoing, many.me, go_on=False)
    assert many.store.run("R").status is RunStatus.COMPENSATION_FAILED
    (again,) = many.order("R", "compensate")
    many.store.begin(again, many.me)
    (second,) = many.ready("R")
    assert (second.address, second.gen) == (undo.address, undo.gen + 1)
    assert isinstance(many.store.begin(undo, many.me), Refused), "a message of before"
    many.store.undo_done(many.begin(second), many.me, go_on=False)
    assert many.store.run("R").status is RunStatus.COMPENSATED


def test_a_commit_of_an_item_whose_answer_was_lost_is_found(many: Many) -> None:
    nudges = many.opened("R", 2)
    work = many.begin(nudges[0])
    assert many.store.recall(work, work.owner) is False
    many.store.succeed(work, many.me, "1")
    assert many.store.recall(work, work.owner) is True


def test_a_run_with_items_is_pruned_with_them_and_a_fork_takes_the_stages_own_output(many: Many) -> None:
    nudges = many.opened("R", 18)
    joined = [nudge for one in nudges for nudge in many.done(one).nudges]
    many.done(joined[0])
    made = many.store.fork(Fork("R", "z", "F", None, "f", "because", "somebody"))
    assert [nudge.strand for nudge in made.nudges] == ["z"]
    assert many.store.outputs("F")["m"].delta == '{"done":18,"failed":0}'
    many.watch.check()
    many.change("runs", lambda row: row.id == "R", created_at=1.0, finished_at=2.0)
    many.store.prune(10.0, sleep=time.sleep)
    for table in ("items", "item_groups", "strands", "attempts", "checkpoints", "saga_steps", "events"):
        assert many.rows(table) == []


def test_a_stage_whose_lost_items_only_a_person_could_settle_has_none(many: Many) -> None:
    many.store.create(NewRun("S", "c", STRICT.plan, None, "f", "{}", "{}", "q"))
    work = many.begin(Nudge("S", "m", 0, "q"))
    with pytest.raises(NotAllowed, match="not possible yet"):
        many.store.open_items(work, ["1"])
    many.store.succeed(work, many.me, "1")


# --- nobody waits for the run -----------------------------------------------------------------------------------------


def locked(url: str, statement: str) -> Any:
    """A transaction of somebody else's that holds these rows."""
    connection = psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"))
    connection.execute(statement)
    return connection


@pytest.mark.postgres
def test_an_item_begins_and_ends_while_the_run_and_another_group_are_locked(migrated_postgres_url: str) -> None:
    many = Many(migrated_postgres_url)
    nudges = many.opened("R", 40)  # three groups
    holder = locked(
        migrated_postgres_url,
        "SELECT 1 FROM stageflow_runs, stageflow_item_groups WHERE grp = 1 FOR UPDATE",
    )
    began = time.monotonic()
    many.done(nudges[0])
    many.done(nudges[2])
    assert time.monotonic() - began < 5.0
    held = threading.Thread(target=lambda: many.done(nudges[1]))
    held.start()
    held.join(0.5)
    assert held.is_alive(), "its group is locked"
    holder.rollback()
    held.join(10.0)
    assert not held.is_alive()
    holder.close()
    many.watch.check()
    many.store.close()


def at_once(count: int, act: Callable[[int], None]) -> None:
    """In so many threads."""
    gate = threading.Barrier(count)

    def work(number: int) -> None:
        gate.wait()
        act(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_however_many_end_items_at_once_the_stage_joins_once(many: Many) -> None:
    count, threads = 96, 16
    joins: list[Nudge] = []
    nudges = many.opened("R", count)

    def carry(number: int) -> None:
        for nudge in nudges[number::threads]:
            joins.extend(many.done(nudge).nudges)

    at_once(threads, carry)
    assert len(joins) == 1
    assert many.store.outputs("R")["m"].delta == f'{{"done":{count},"failed":0}}'


def test_however_a_cancel_meets_items_that_begin_none_is_left_behind(many: Many) -> None:
    nudges = many.opened("R", 64)
    begun: list[Work] = []
    refused: list[Refusal] = []

    def carry(number: int) -> None:
        if number == 0:
            time.sleep(0.05)
            many.store.order(Order("R", "cancel", "because", "somebody"))
            return
        for nudge in nudges[number::8]:
            found = many.store.begin(nudge, many.me)
            if isinstance(found, Work):
                begun.append(found)
                many.store.succeed(found, many.me, "1")
            else:
                refused.append(found.why)

    at_once(8, carry)
    many.watch.check()
    assert set(refused) <= {Refusal.STOPPED, Refusal.NOT_READY}
    of_items = [row["state"] for row in many.rows("strands") if row["item"]]
    assert {"ready", "running"}.isdisjoint(of_items)
    groups = many.rows("item_groups")
    assert sum(row["done"] for row in groups if row["strand"] == "m") == len(begun)
    assert sum(row["running"] for row in groups) == 0


@pytest.mark.slow
def test_the_end_of_an_item_takes_no_longer_among_ten_thousand(unwatched: Many) -> None:
    few, ten_thousand = (unwatched.opened(run, count, watched=False) for run, count in (("F", 320), ("T", 10_000)))
    unwatched.done(ten_thousand[-1])
    seconds = {"F": 0.0, "T": 0.0}
    for pair in zip(few[:250], ten_thousand[:250], strict=True):  # in turns: what slows one slows the other
        for nudge in pair:
            began = time.monotonic()
            unwatched.done(nudge)
            seconds[nudge.run_id] += time.monotonic() - began
    print(f"an item of 320: {seconds['F'] * 4:.2f} ms, of 10,000: {seconds['T'] * 4:.2f} ms")
    assert seconds["T"] < seconds["F"] * 1.5


def test_items_are_erased_with_their_run_and_their_chains_stay_whole(many: Many) -> None:
    first, second = many.opened("R", 2)
    many.done(first)
    many.done(many.done(second).nudges[0])
    many.store.erase(Order("R", "erase", "because", "somebody"))
    assert {row["input"] for row in many.rows("items")} == {"null"}
    assert {row["delta"] for row in many.rows("checkpoints")} == {None}
    assert [checked.problems for checked in many.store.audit(["R"], {})] == [()]
    change_rows(many.store, "items", lambda row: row.item == 1, input='{"n":0}')
    (checked,) = many.store.audit(["R"], {})
    assert "a row of items (m): input holds a value, its run was erased" in checked.problems
    change_rows(many.store, "items", lambda row: row.item == 1, input="null")
