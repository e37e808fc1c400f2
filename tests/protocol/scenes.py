"""Situations of one run, and the transactions that may meet in each: what the stepped suite plays in pairs and triples.

A transaction is written as its name and what it is about: ``"begin a me"``, ``"succeed l on"``, ``"settle b done"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import psycopg
from psycopg.rows import dict_row
from sqlalchemy import Double

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Cause, ParkReason
from stageflow_durable.model.work import Done, Fenced, Nudge, Refused, Waiting, Work
from stageflow_durable.state.begin import Taker
from stageflow_durable.state.commit import Failure
from stageflow_durable.state.database import Database
from stageflow_durable.state.fork import Fork
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.operators import Order
from stageflow_durable.state.owners import Identity
from stageflow_durable.state.recovery import Missed, Place
from stageflow_durable.state.runs import Created, NewRun
from stageflow_durable.state.store import Store
from stageflow_durable.state.tables import definitions
from tests.protocol.invariants import Watch, the_chain_is_unbroken
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


FORK, HALT = _branches("fork"), _branches("halt", on_compensation_failure="halt")
PLANS = {pipeline.name: pipeline.plan for pipeline in (LINE, BARE, PIVOT, GUARDED, FORK, HALT)}
NO = Failure("no", "permanent", doubt=True)


class World:
    """A database with one run, and what its owners have in hand."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.database = Database(url)
        self.store = Store(self.database, shortcut=False)
        self.watch = Watch(self.database)
        self.works: dict[str, Work] = {}
        self.missed: Missed | None = None
        self.op_version = 0
        self.store.register(list(PLANS.values()))
        self.owners = {name: self.store.join(Identity("host", pid, "boot"), LEASE) for name, pid in OWNERS.items()}

    def taker(self, owner: str) -> Taker:
        """An owner that knows every pipeline."""
        return Taker(self.owners[owner], PLANS, {})

    def accept(self, pipeline: Line, **options: Any) -> None:
        """The run."""
        self.store.create(NewRun(RUN, "c", pipeline.plan, KEY, "f", "{}", "{}", "q", **options))

    def begin(self, strand: str, owner: str = "me", gen: int = 0) -> None:
        """Somebody has it in hand."""
        work = self.store.begin(Nudge(RUN, strand, gen, "q"), self.taker(owner))
        assert isinstance(work, Work), work
        self.works[strand] = work

    def succeed(self, strand: str) -> None:
        """It is done."""
        assert isinstance(self.store.succeed(self.works[strand], self.taker("me"), "1"), Done)

    def fail(self, strand: str, park: ParkReason | None = None) -> None:
        """It has failed for good."""
        done = self.store.fail(self.works[strand], NO, cause=Cause.FAILED, park=park, exhausted=False)
        assert isinstance(done, Done)

    def kill(self, owner: str = "gone") -> None:
        """Its process was seen to end."""
        assert self.store.mark_killed("boot", OWNERS[owner])

    def take(self, strand: str) -> None:
        """From the dead."""
        assert self.store.take(Place(RUN, strand, 0), 5, 1.0) is not None

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
    return lambda store: store.begin(Nudge(RUN, strand, int(gen), "q"), world.taker(owner))


def _succeed(world: World, strand: str, on: str = "") -> Act:
    work = world.works[strand]
    return lambda store: store.succeed(work, _its(work), "1", go_on=bool(on))


def _its(work: Work) -> Taker:
    return Taker(work.owner, PLANS, {})


def _fail(world: World, strand: str, how: str = "") -> Act:
    work = world.works[strand]
    failure = Failure("no", "permanent", doubt=False, vouched=True) if how == "vouched" else NO
    return lambda store: store.fail(work, failure, cause=Cause.FAILED, park=None, exhausted=False)


def _wait(world: World, strand: str) -> Act:
    return lambda store: store.wait(world.works[strand], NO, 0.0, 0.0)


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
    return lambda store: store.nudged(missed)


TRANSACTIONS: dict[str, Callable[..., Act]] = {
    "enqueue": _again,
    "begin": _begin,
    "succeed": _succeed,
    "wait": _wait,
    "postpone": _postpone,
    "fail": _fail,
    "recall": lambda world, strand: lambda store: store.recall(world.works[strand], world.works[strand].owner),
    "report": lambda world, strand: lambda store: store.report(world.works[strand], '"half"'),
    "note": lambda _world: lambda store: store.note(RUN, "work.note", {}),
    "undo_done": _undo_done,
    "undo_failed": _undo_failed,
    "take": lambda _world, strand, most="5": lambda store: store.take(Place(RUN, strand, 0), int(most), 1.0),
    "wake": lambda _world, strand: lambda store: store.wake(Place(RUN, strand, 0)),
    "expire": lambda _world: lambda store: store.expire(RUN),
    "nudged": _nudged,
    "unpublish": lambda _world, strand: lambda store: store.unpublish((Nudge(RUN, strand, 0, "q"),)),
    "renew": lambda world, owner: lambda store: store.renew(world.owners[owner], LEASE, {"q": 5.0}),
    "retire": lambda world, owner: lambda store: store.retire(world.owners[owner]),
    "mark_killed": lambda _world, owner: lambda store: store.mark_killed("boot", OWNERS[owner]),
    "mark_expired": lambda _world: lambda store: store.mark_expired(),
    "cancel": lambda world: _order(world, "cancel"),
    "cancel_anyway": _stop_anyway,
    "resume": lambda world: _order(world, "resume"),
    "compensate": lambda world: _order(world, "compensate"),
    "skip": lambda world, stage: _order(world, "compensate", stage),
    "settle": _settle,
    "fork": _fork,
}

_WITH_SHORT_WAY = re.compile(r"enqueue|begin (?!undo)|succeed a")


def has_short_way(name: str) -> bool:
    """Whether the transaction may be one statement."""
    return _WITH_SHORT_WAY.match(name) is not None


# --- situations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Situation:
    """How a run stands, and what may happen to it now.

    ``rivals``: groups of transactions that contradict each other: of any two, exactly one wins. ``core``: what is
    played in triples.
    """

    name: str
    make: Callable[[World], None]
    acts: tuple[str, ...]
    rivals: tuple[frozenset[str], ...]
    core: tuple[str, ...]

    def contradict(self, *names: str) -> bool:
        """Whether only one of them can win."""
        return any(group.issuperset(names) for group in self.rivals)


SITUATIONS: dict[str, Situation] = {}


def situation(acts: str, *, rivals: str = "", core: str = "") -> Callable[[Callable[[World], None]], None]:
    """Lists are written with commas, groups with a bar between them."""

    def add(make: Callable[[World], None]) -> None:
        name = make.__name__
        groups = tuple(frozenset(_names(group)) for group in rivals.split("|"))
        SITUATIONS[name] = Situation(name, make, _names(acts), groups, _names(core))

    return add


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


@situation("enqueue A, enqueue B, fork b key", rivals="")
def nothing_yet(world: World) -> None:
    """A key that nobody has used; its fork takes the same one."""
    world.accept(LINE)
    world.begin("a")
    world.succeed("a")
    world.sql("UPDATE stageflow_runs SET key = NULL")


@situation(
    "begin a me, begin a other, cancel, cancel_anyway, expire, fork a, nudged, unpublish a, mark_killed me, note,"
    " enqueue A",
    rivals="begin a me, begin a other",
    core="begin a me, begin a other, cancel_anyway, nudged",
)
def ready(world: World) -> None:
    world.accept(LINE)
    world.sql("UPDATE stageflow_strands SET published_at = NULL")
    world.missed = world.store.missed(Place(RUN, "a", 0))


@situation("begin a me, begin a other, cancel_anyway, expire, note", core="begin a me, cancel_anyway, expire")
def late(world: World) -> None:
    world.accept(LINE, deadline=PAST)


@situation(
    "succeed a, succeed a on, wait a, postpone a, fail a, fail a vouched, cancel, expire, fork a, recall a, report a,"
    " note, renew me, mark_killed me, begin a other",
    rivals="succeed a, succeed a on, wait a, postpone a, fail a, fail a vouched",
    core="succeed a on, fail a, cancel",
)
def running(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    world.sql(f"UPDATE stageflow_runs SET deadline = {PAST}")


@situation(
    "succeed a, succeed a on, wait a, fail a, take a, take a 1, cancel, expire, begin a other 1, retire me",
    rivals="succeed a, succeed a on, wait a, fail a, take a, take a 1",
    core="succeed a on, take a, cancel, begin a other 1",
)
def orphaned(world: World) -> None:
    world.accept(LINE)
    world.begin("a", "gone")
    world.kill()


@situation(
    "succeed a on, renew me, mark_expired, take a, begin a other 1, wait a",
    core="succeed a on, renew me, mark_expired, take a",
)
def lease_over(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    world.sql("UPDATE stageflow_owners SET expires_at = 2 WHERE pid = 1")


@situation(
    "wake a, begin a me, begin a other, cancel, expire, fork a, mark_killed me",
    rivals="begin a me, begin a other",
    core="wake a, begin a me, cancel",
)
def waiting(world: World) -> None:
    world.accept(LINE)
    world.begin("a")
    assert isinstance(world.store.wait(world.works["a"], NO, 0.0, 0.0), Waiting)


@situation(
    "succeed l, succeed l on, succeed r, succeed r on, fail l, fail r, wait l, postpone r, cancel, fork l, note,"
    " mark_killed me",
    rivals="succeed l, succeed l on, fail l, wait l | succeed r, succeed r on, fail r, postpone r",
    core="succeed l on, succeed r on, cancel, fail r",
)
def branches(world: World) -> None:
    world.accept(FORK)
    world.begin("l")
    world.begin("r", "other")


@situation(
    "take l, succeed l, succeed r on, fail r, cancel, begin l other 1",
    rivals="take l, succeed l | succeed r on, fail r",
    core="take l, succeed r on, cancel",
)
def one_branch_orphaned(world: World) -> None:
    world.accept(FORK)
    world.begin("l", "gone")
    world.begin("r")
    world.kill()


@situation(
    "succeed l on, succeed r on, fail l, wait l, postpone r, take r, cancel, cancel_anyway, begin l other",
    rivals="succeed l on, fail l, wait l | succeed r on, postpone r, take r",
    core="succeed l on, take r, succeed r on",
)
def stopping(world: World) -> None:
    world.accept(FORK)
    world.begin("l")
    world.begin("r", "gone")
    world.kill()
    world.store.order(Order(RUN, "cancel", "because", "somebody"))


@situation(
    "succeed a on, begin a me, cancel_anyway, expire, compensate, wait a, fail a",
    core="succeed a on, cancel_anyway, expire",
)
def before_the_pivot(world: World) -> None:
    world.accept(PIVOT)
    world.begin("a")


@situation("succeed a on, take a, cancel_anyway, fail a, fail a vouched, succeed a", core="")
def in_the_pivot(world: World) -> None:
    world.accept(PIVOT)
    world.begin("a")
    world.succeed("a")
    world.begin("a", "gone")
    world.kill()


def _undoing(world: World, pipeline: Line) -> None:
    world.accept(pipeline)
    for name in ("l", "r"):
        world.begin(name)
        world.succeed(name)
    world.begin("join")
    world.fail("join")


@situation(
    "begin undo:l me, begin undo:l other, begin undo:r other, cancel, note, fork l",
    rivals="begin undo:l me, begin undo:l other",
    core="begin undo:l me, begin undo:l other, begin undo:r other",
)
def undos_ready(world: World) -> None:
    _undoing(world, FORK)


def _both_undone_by(world: World, pipeline: Line, left: str) -> None:
    _undoing(world, pipeline)
    world.begin("undo:l", left)
    world.begin("undo:r", "other")


@situation(
    "undo_done undo:l on, undo_done undo:r on, undo_failed undo:l, undo_failed undo:r on, wait undo:l, postpone undo:r,"
    " cancel, note, compensate",
    rivals="undo_done undo:l on, undo_failed undo:l, wait undo:l |"
    " undo_done undo:r on, undo_failed undo:r on, postpone undo:r",
    core="undo_done undo:l on, undo_done undo:r on, undo_failed undo:r on",
)
def undos_running(world: World) -> None:
    _both_undone_by(world, FORK, "me")


@situation(
    "undo_done undo:l, undo_failed undo:l, undo_done undo:r, undo_failed undo:r, take undo:l, take undo:l 1,"
    " wait undo:r",
    rivals="undo_done undo:l, undo_failed undo:l, take undo:l, take undo:l 1 |"
    " undo_done undo:r, undo_failed undo:r, wait undo:r",
    core="undo_done undo:l, take undo:l 1, undo_failed undo:r",
)
def one_undo_orphaned(world: World) -> None:
    _both_undone_by(world, HALT, "gone")
    world.kill()


def _parked(world: World, reason: ParkReason) -> None:
    world.accept(LINE)
    world.begin("a")
    world.succeed("a")
    world.begin("a")
    world.fail("a", reason)


@situation(
    "resume, compensate, cancel, cancel_anyway, skip a, fork b, begin a me, begin a me 1, note, expire",
    rivals="resume, compensate, cancel, skip a",
    core="resume, compensate, begin a me 1, skip a",
)
def parked(world: World) -> None:
    _parked(world, ParkReason.BUG)


@situation(
    "settle b done, settle b not, compensate, cancel, resume, fork b, begin a me 2",
    rivals="settle b done, settle b not, compensate, cancel",
    core="settle b done, settle b not, compensate",
)
def in_doubt(world: World) -> None:
    world.accept(GUARDED)
    world.begin("a")
    world.succeed("a")
    world.begin("a", "gone")
    world.kill()
    world.take("a")


@situation(
    "resume, settle b done, settle b not, fork b, compensate, cancel, begin a me 1",
    rivals="resume, settle b done, settle b not",
    core="resume, settle b done, fork b",
)
def failed(world: World) -> None:
    world.accept(BARE)
    world.begin("a")
    world.succeed("a")
    world.begin("a")
    world.fail("a")


@situation(
    "compensate, skip b, resume, fork a, begin undo:b me 1, note",
    rivals="compensate, skip b",
    core="compensate, skip b, begin undo:b me 1",
)
def undo_failed(world: World) -> None:
    _parked(world, ParkReason.BUG)
    world.store.order(Order(RUN, "compensate", "because", "somebody"))
    world.begin("undo:b")
    world.store.undo_failed(world.works["undo:b"], world.taker("me"), NO, go_on=False)
    world.begin("undo:a")
    world.store.undo_done(world.works["undo:a"], world.taker("me"), go_on=False)


# --- the same scene again and again -----------------------------------------------------------------------------------

_TABLES = [table for table in metadata.sorted_tables if table.name != definitions.name]
_EMPTY = ";".join(f"DELETE FROM {table.name}" for table in reversed(_TABLES))
_SEALS = {"head", "previous", "mac"}


def _look() -> str:
    """Everything but the times and what is computed from them, as one text."""
    parts = []
    for table in _TABLES:
        columns = ",".join(
            f"{column.name} IS NULL AS {column.name}" if isinstance(column.type, Double) else column.name
            for column in table.columns
            if column.name not in _SEALS
        )
        keys = ",".join(column.name for column in table.primary_key)
        parts.append(
            f"coalesce((SELECT string_agg('{table.name} ' || row_to_json(t), E'\\n' ORDER BY {keys})"
            f" FROM (SELECT {columns} FROM {table.name}) t), '')"
        )
    return f"SELECT concat_ws(E'\\n', {','.join(parts)})"


_LOOK = _look()


@dataclass
class Scene:
    """A situation that was brought about once and is set up anew before each play."""

    situation: Situation
    world: World
    url: str
    serial: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    _checked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        with self._connection.transaction():
            self._connection.execute(f'CREATE SCHEMA "{self._room}"')
            for table in _TABLES:
                self._connection.execute(f'CREATE TABLE "{self._room}".{table.name} AS TABLE public.{table.name}')
        self.world.watch.check()
        copies = (f'INSERT INTO {table.name} SELECT * FROM "{self._room}".{table.name}' for table in _TABLES)
        self._again = f"BEGIN;{_EMPTY};{';'.join(copies)};COMMIT"

    @property
    def _room(self) -> str:
        return f"scene_{self.situation.name}"

    @cached_property
    def _connection(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)

    def act(self, name: str) -> Act:
        """The transaction of that name."""
        verb, *about = name.split()
        return TRANSACTIONS[verb](self.world, *about)

    def set_up(self) -> None:
        """As it was."""
        self._connection.execute(self._again)

    def check(self) -> str:
        """Every invariant holds, now; how it stands. What looks the same was looked at before."""
        seen = self.look()
        if seen not in self._checked:
            Watch(self.world.database).check()
            self._checked.add(seen)
        assert self.broken_chain() == []
        return seen

    def watch(self) -> Watch:
        """Has seen the situation, and nothing since."""
        return copy(self.world.watch)

    def broken_chain(self) -> list[str]:
        """What is wrong with the seals: the one thing that is not seen in :meth:`look`."""
        rows = self._connection.cursor(row_factory=dict_row)
        events = rows.execute("SELECT * FROM stageflow_events ORDER BY run, seq").fetchall()
        found = rows.execute("SELECT id, seq, head FROM stageflow_runs").fetchall()
        return [
            what
            for run in found
            for what in the_chain_is_unbroken(
                SimpleNamespace(run=run, events=[event for event in events if event["run"] == run["id"]])  # type: ignore[arg-type]
            )
        ]

    def look(self) -> str:
        """How it stands."""
        found = self._connection.execute(_LOOK).fetchone()
        assert found is not None
        return str(found[0])

    def close(self) -> None:
        """Close its connections."""
        self._connection.close()
        self.world.close()


def brought_about(situation: Situation, url: str) -> Scene:
    """The situation, in an emptied database."""
    with psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True) as connection:
        connection.execute(_EMPTY)
    world = World(url)
    situation.make(world)
    facts = world.store.facts(RUN)
    assert facts is not None
    world.op_version = facts.op_version
    return Scene(situation, world, url)


def told(answer: Any) -> str:
    """An answer without times."""
    if isinstance(answer, Exception):
        return type(answer).__name__
    if type(answer) is tuple:  # nudges
        return f"({', '.join(sorted(map(str, answer)))})"
    tell = _TELL.get(type(answer), str)
    return tell(answer)


_TELL: dict[type, Callable[[Any], str]] = {
    Work: lambda work: f"{work.stage} {work.direction} #{work.attempt} on {work.strand} {work.gen}, seq {work.seq}",
    Done: lambda done: f"done, granted {told(done.granted)}, {told(done.nudges)}, ended {done.ended}",
    Refused: lambda refused: f"{refused.why} {told(refused.nudges)}",
    Created: lambda created: f"{created.run_id} {'replayed' if created.replayed else 'new'}",
}


def won(answer: Any) -> bool:
    """Whether it did what it was for."""
    return not isinstance(answer, Exception | Refused | Fenced) and answer is not None and answer is not False
