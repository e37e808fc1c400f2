"""A run's world, and the protocol's transactions by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import Claimant, Done, Failure, Hint, Nudge, Work
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.values import Fork, Identity, Missed, StrandRef
from stageflow_durable.transitions.accept import NewRun
from stageflow_durable.transitions.operate import Order
from tests.protocol.invariants import SeenInSql, Watch
from tests.protocol.stepping import Act

RUN, KEY = "R", "key"
LEASE = 3600.0
PAST = 1.0
OWNERS = {"me": 1, "other": 2, "gone": 3}


def nothing(_ctx: Any) -> None:
    return None


Line = Pipeline[Any, Any]
LINE = Line("line").stage("a", nothing, compensate=nothing).stage("b", nothing, compensate=nothing)
BARE = Line("bare").stage("a", nothing).stage("b", nothing)
PIVOT = Line("pivot").stage("a", nothing, compensate=nothing).stage("b", nothing, pivot=True).stage("c", nothing)
GUARDED = Line("guarded").stage("a", nothing, compensate=nothing).stage("b", nothing, on_unknown="park")


def _branches(name: str, **options: Any) -> Line:
    both = Line(name, **options).stage("l", nothing, after=(), compensate=nothing)
    return both.stage("r", nothing, after=(), compensate=nothing).stage("join", nothing, after=("l", "r"))


DOUBTFUL = Line("doubtful").stage("a", nothing, compensate=nothing, on_unknown="compensate").stage("b", nothing)
FORK, HALT = _branches("fork"), _branches("halt", on_compensation_failure="halt")


def _sleeping(name: str, **how: Any) -> Line:
    return Line(name).stage("a", nothing, compensate=nothing).sleep("pause", **how).stage("b", nothing)


ASLEEP = _sleeping("asleep", duration=timedelta(hours=1))
RESTED = _sleeping("rested", until=datetime(2020, 1, 1, tzinfo=UTC))
MANY = Line("many").stage("m", nothing, compensate=nothing).stage("z", nothing)
_ALL = (LINE, BARE, PIVOT, GUARDED, DOUBTFUL, ASLEEP, RESTED, FORK, HALT, MANY)
PLANS = {pipeline.name: pipeline.plan for pipeline in _ALL}
NO = Failure("no", "permanent", doubt=True)


def nudge_for(address: str, gen: int = 0) -> Nudge:
    """The message for a strand, or for an item of it: ``m#3``."""
    strand, _sign, item = address.partition("#")
    return Nudge(RUN, strand, gen, "q", item=int(item or 0))


def ref_to(address: str) -> StrandRef:
    """What a scan finds of it."""
    strand, _sign, item = address.partition("#")
    return StrandRef(RUN, strand, 0, item=int(item or 0))


class World:
    """A database with one run, and what its owners have in hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.store = SqlStore(self.database, optimistic=False)
        self.watch = Watch(SeenInSql(self.database))
        self.works: dict[str, Work] = {}
        self.missed: Missed | None = None
        self.op_version = 0
        self.store.register(list(PLANS.values()))
        self.owners = {name: self.store.join(Identity("host", pid, "boot"), LEASE) for name, pid in OWNERS.items()}

    def claimant(self, owner: str) -> Claimant:
        """An owner that knows every pipeline."""
        return Claimant(self.owners[owner], PLANS, {})

    def accept(self, pipeline: Line, **options: Any) -> None:
        """The run."""
        self.store.create(NewRun(RUN, "c", pipeline.plan, KEY, "f", "{}", "{}", "q", **options))

    def begin(self, strand: str, owner: str = "me", gen: int = 0) -> None:
        """Somebody has it in hand."""
        work = self.store.begin(nudge_for(strand, gen), self.claimant(owner))
        assert isinstance(work, Work), work
        self.works[strand] = work

    def open_items(self, count: int) -> None:
        """The run's first stage is carried out for so many items."""
        self.accept(MANY)
        self.begin("m")
        assert isinstance(self.store.open_items(self.works["m"], ["1"] * count), Done)

    def succeed(self, strand: str) -> None:
        """It is done."""
        assert isinstance(self.store.succeed(self.works[strand], self.claimant("me"), "1"), Done)

    def fail(self, strand: str, park: ParkReason | None = None) -> None:
        """It has failed for good."""
        done = self.store.fail(self.works[strand], NO, cause=Cause.FAILED, park=park, exhausted=False)
        assert isinstance(done, Done)

    def kill(self, owner: str = "gone") -> None:
        """Its process was seen to end."""
        assert self.store.mark_killed("boot", OWNERS[owner])

    def expire(self, owner: str = "gone") -> None:
        """Its lease ran out, and somebody declared it dead; whether its process has ended nobody knows."""
        self.sql(f"UPDATE stageflow_owners SET dead_at = 2, expires_at = 2 WHERE pid = {OWNERS[owner]}")

    def take(self, strand: str) -> None:
        """From the dead."""
        assert self.store.take(ref_to(strand), 5) is not None

    def sql(self, statement: str) -> None:
        """What no transaction brings about at once: time that has passed."""
        with self.database.transaction() as connection:
            connection.exec_driver_sql(statement)

    def close(self) -> None:
        """Close its connections."""
        self.store.close()


# --- transactions -----------------------------------------------------------------------------------------------------


def _order(world: World, verb: str, *skip: str) -> Act:
    order = Order(RUN, verb, "because", "somebody", world.op_version, skip=skip)
    return lambda store: store.order(order)


def _stop_anyway(_world: World) -> Act:
    return lambda store: store.order(Order(RUN, "cancel", "because", "somebody"))


def _begin(world: World, strand: str, owner: str, gen: str = "0") -> Act:
    return lambda store: store.begin(nudge_for(strand, int(gen)), world.claimant(owner))


def _begin_hinted(world: World, strand: str, owner: str) -> Act:
    facts = world.store.facts(RUN)
    assert facts is not None
    hint = Hint(facts.seq, facts.head, facts.definition, strand)
    return lambda store: store.begin(Nudge(RUN, strand, 0, "q", hint=hint), world.claimant(owner))


def _succeed(world: World, strand: str, on: str = "") -> Act:
    work = world.works[strand]
    return lambda store: store.succeed(work, _its(work), "1", go_on=bool(on))


def _its(work: Work) -> Claimant:
    return Claimant(work.owner, PLANS, {})


def _fail(world: World, strand: str, how: str = "") -> Act:
    work = world.works[strand]
    failure = Failure("no", "permanent", doubt=False, vouched=True) if how == "vouched" else NO
    return lambda store: store.fail(work, failure, cause=Cause.FAILED, park=None, exhausted=False)


def _wait(world: World, strand: str) -> Act:
    return lambda store: store.retry_later(world.works[strand], NO, 0.0, 0.0)


def _postpone(world: World, strand: str) -> Act:
    return lambda store: store.postpone(world.works[strand], 0.0)


def _undo_done(world: World, strand: str, on: str = "") -> Act:
    work = world.works[strand]
    return lambda store: store.undo_done(work, _its(work), go_on=bool(on))


def _undo_failed(world: World, strand: str, on: str = "") -> Act:
    work = world.works[strand]
    return lambda store: store.undo_failed(work, _its(work), NO, go_on=bool(on))


def _settle(world: World, stage: str, how: str) -> Act:
    order = Order(RUN, "settle", "because", "somebody", world.op_version)
    return lambda store: store.settle(order, stage, "1" if how == "done" else None)


def _fork(_world: World, stage: str, key: str | None = None) -> Act:
    return lambda store: store.fork(Fork(RUN, stage, "F", key, "f", "because", "somebody"))


def _again(_world: World, new_id: str) -> Act:
    new = NewRun(new_id, "c", LINE.plan, KEY, "f", "{}", "{}", "q")
    return lambda store: store.create(new)


def _nudged(world: World) -> Act:
    missed = world.missed
    assert missed is not None
    return lambda store: store.nudged([missed])


def _beat(world: World, owner: str) -> Act:
    def beat(store: SqlStore) -> None:
        store.renew(world.owners[owner], LEASE)
        store.served({"q": 5.0})

    return beat


def _confirm_dead(world: World, owner: str) -> Act:
    def confirm(store: SqlStore) -> bool:
        store.confirm_dead(world.owners[owner], "I looked", "somebody")
        return True  # else it raises

    return confirm


def _end(world: World, verb: str, owner: str) -> Act:
    """Who confirms an end lets go what waits for it: one transaction a run, and one when nothing waits any more."""
    confirm, name = TRANSACTIONS[verb](world, owner), world.owners[owner]

    def end(store: SqlStore) -> list[str]:
        confirm(store)
        waiting = store.runs_waiting_for(name)
        for run in waiting:
            store.release(run, name)
        store.released(name)
        return waiting

    return end


TRANSACTIONS: dict[str, Callable[..., Act]] = {
    "enqueue": _again,
    "begin": _begin,
    "begin_hinted": _begin_hinted,
    "succeed": _succeed,
    "wait": _wait,
    "postpone": _postpone,
    "fail": _fail,
    "recall": lambda world, strand: lambda store: store.recall(world.works[strand], world.works[strand].owner),
    "report": lambda world, strand: lambda store: store.report(world.works[strand], '"half"'),
    "note": lambda _world: lambda store: store.note(RUN, "work.note", {}),
    "undo_done": _undo_done,
    "undo_failed": _undo_failed,
    "take": lambda _world, strand, most="5": lambda store: store.take(ref_to(strand), int(most)),
    "wake": lambda _world, strand: lambda store: store.wake([ref_to(strand)]),
    "expire": lambda _world: lambda store: store.expire(RUN),
    "nudged": _nudged,
    "unpublish": lambda _world, strand: lambda store: store.unpublish((Nudge(RUN, strand, 0, "q"),)),
    "renew": _beat,
    "retire": lambda world, owner: lambda store: store.retire(world.owners[owner]),
    "mark_killed": lambda _world, owner: lambda store: store.mark_killed("boot", OWNERS[owner]),
    "confirm": lambda world, owner: lambda store: store.confirm(world.owners[owner], "its host"),
    "confirm_dead": _confirm_dead,
    "release": lambda world, owner: lambda store: store.release(RUN, world.owners[owner]),
    "end": _end,
    "mark_expired": lambda _world: lambda store: store.mark_expired(),
    "cancel": lambda world: _order(world, "cancel"),
    "cancel_anyway": _stop_anyway,
    "resume": lambda world: _order(world, "resume"),
    "compensate": lambda world: _order(world, "compensate"),
    "skip": lambda world, stage: _order(world, "compensate", stage),
    "settle": _settle,
    "reveal": lambda _world: lambda store: store.reveal(Order(RUN, "reveal", "because", "somebody")),
    "erase": lambda _world: lambda store: store.erase(Order(RUN, "erase", "because", "somebody")),
    "fork": _fork,
}

_OPTIMISTIC = re.compile(r"enqueue|begin (?!undo)|begin_hinted|(succeed|wait|postpone) a")


def is_optimistic(name: str) -> bool:
    """Whether the transaction may be one statement."""
    return _OPTIMISTIC.match(name) is not None
