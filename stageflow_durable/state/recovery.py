"""The queries of a sweep: work of dead owners, waits that are due, messages that were lost, runs past their deadline.

Scans read bounded batches along partial indexes. Each strand that is found is handled by a transition under its run's
lock: any number of sweeps may run at once, and one that dies half-way leaves nothing half done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Connection,
    Double,
    Integer,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)

from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.status import AT_REST, Phase, RunStatus, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import slots
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import items, owners, queues, runs, ticks
from stageflow_durable.state.tables import strands as strand_table
from stageflow_durable.store.base import STRANGERS
from stageflow_durable.store.scans import DOUBLED, missed_of, more
from stageflow_durable.store.values import BATCH, ONE_CLOCK_SECONDS, Missed, Overdue, StrandRef
from stageflow_durable.transitions.repair import BY_TIME
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, StrandRow

_PLACE = tuple(strand_table.c[name] for name in ("run", "strand", "gen", "stage", "item"))
_ORPHANS = (
    select(*_PLACE)
    .join(owners, owners.c.id == strand_table.c.owner)
    .where(and_(strand_table.c.state == constant(StrandState.RUNNING), owners.c.dead_at.is_not(None)))
    .limit(BATCH)
)
_GRACE = bindparam("grace", type_=Double)
# Only a retry may have a message under way, with a countdown.
_NO_MESSAGE = strand_table.c.attempt == literal_column("0", Integer)
_DUE = (
    select(*_PLACE)
    .where(
        and_(
            strand_table.c.state == constant(StrandState.WAITING),
            strand_table.c.wake_at <= ago(0.0),
            or_(_NO_MESSAGE, strand_table.c.wake_at <= ago(_GRACE)),
        )
    )
    .order_by(strand_table.c.wake_at)
    .limit(BATCH)
)
_NEXT_WAIT = Prepared(
    select(func.min(case((_NO_MESSAGE, strand_table.c.wake_at), else_=strand_table.c.wake_at + _GRACE)) - now()).where(
        and_(
            strand_table.c.state == constant(StrandState.WAITING),
            strand_table.c.wake_at > ago(_GRACE),
            strand_table.c.wake_at < UNTIL_CONFIRMED,
            or_(strand_table.c.wake_at > ago(0.0), ~_NO_MESSAGE),
            # What was handed back is left to the sweeps: offered in an exact rhythm, which is that in which workers ask
            # the broker, it would reach the same worker for ever.
            strand_table.c.nudges == 0,
        )
    )
)
# Past its pivot a run only goes forward, and its deadline no longer counts.
_LATE = (
    select(runs.c.id)
    .where(and_(runs.c.phase == constant(Phase.FORWARD), runs.c.deadline <= ago(0.0), runs.c.pivot_passed.is_(False)))
    .limit(BATCH)
)
_MISSED = (
    select(
        *(strand_table.c[name] for name in StrandRow._fields),
        func.coalesce(items.c.seq, runs.c.seq),
        *(runs.c[name] for name in ("definition", "priority")),
    )
    .join(runs, runs.c.id == strand_table.c.run)
    .join(items, and_(items.c.run == strand_table.c.run, items.c.item == strand_table.c.item), isouter=True)
    .where(strand_table.c.state == constant(StrandState.READY))
)
_UNPUBLISH = Prepared(
    update(strand_table)
    .where(
        and_(
            strand_table.c.run == bindparam("run_id"),
            strand_table.c.strand == bindparam("strand_id"),
            strand_table.c.item == bindparam("of_item"),
            strand_table.c.gen == bindparam("my_gen"),
            strand_table.c.state == StrandState.READY,
        )
    )
    .values(published_at=None)
)
_QUEUES = select(strand_table.c.queue).where(strand_table.c.state == constant(StrandState.READY)).distinct()


def _rows(which: str, scan: Select[Any]) -> Select[Any]:
    """A scan's rows, all of one width, with the scan's name in the first column."""
    found = [*scan.subquery().c]
    return select(literal_column(f"'{which}'", String), *found, *(null() for _ in range(len(_PLACE) - len(found))))


# One query for all scans: most sweeps find nothing, and each query costs a round trip.
_ENDED = select(owners.c.id).where(and_(owners.c.awaited.is_(True), owners.c.confirmed.is_(True))).limit(BATCH)
_SCANS = {
    "orphans": _ORPHANS,
    "late": _LATE,
    "due": _DUE,
    "offered": slots.OFFERED,
    "queues": _QUEUES,
    "ended": _ENDED,
    "pools": slots.TO_TEND,
}
_OVERDUE = Prepared(union_all(*(_rows(which, scan) for which, scan in _SCANS.items())))
_SENT, _OF_QUEUE = strand_table.c.published_at, bindparam("of_queue", type_=String)
MORE = case(*[(strand_table.c.nudges == n, more(n)) for n in range(DOUBLED)], else_=more(DOUBLED))
"""By how much more time a message counts as lost after each further publication."""

_OWN_CLOCK = now() + ONE_CLOCK_SECONDS


def _of_queue(column: Any) -> Any:
    """A time that is stored for the queue; one in the future was written by another clock and is ignored."""
    return select(column).where(and_(queues.c.name == _OF_QUEUE, column <= _OWN_CLOCK)).scalar_subquery()


_FREE_FOR = _SENT - _of_queue(queues.c.free_at)
_ALONE = bindparam("alone", type_=Double)
# Each publication doubles the patience; it is reset when a worker becomes free.
_PATIENCE = case(
    (_FREE_FOR <= _ALONE, _ALONE),
    (_FREE_FOR < _ALONE * MORE, _FREE_FOR),
    else_=_ALONE * MORE,
)
_LOST = or_(
    _SENT.is_(None),
    _of_queue(queues.c.served_at) - bindparam("patience", type_=Double) * MORE > _SENT,
    now() - _SENT > _PATIENCE,
    _SENT > _OWN_CLOCK,
)
_LOST_ONES = (
    select(*_PLACE)
    .where(and_(strand_table.c.state == constant(StrandState.READY), strand_table.c.queue == _OF_QUEUE, _LOST))
    .order_by(_SENT)
    .limit(BATCH)
)
_UNDELIVERED = Prepared(_LOST_ONES)


def _turn(dialect: Any) -> Any:
    every = bindparam("every", type_=Double)
    # A turn that lies further ahead than one interval was written before the clock went back.
    due = or_(ticks.c.at < now() - every, ticks.c.at > now() + every)
    return (
        dialect.insert(ticks)
        .values(at=now())
        .on_conflict_do_update(index_elements=["name"], set_={"at": now()}, where=due)
        .returning(ticks.c.name)
    )


_TICK = Prepared(_turn)


def overdue(connection: Connection, grace: float) -> Overdue:
    """What there is to do. ``grace``: by how many seconds a retry has to be late."""
    found: dict[str, list[Any]] = {which: [] for which in _SCANS}
    for which, *row in _OVERDUE.run(connection, grace=grace).fetchall():
        found[which].append(row)
    return Overdue(
        [StrandRef(*row) for row in found["orphans"]],
        [run for run, *_none in found["late"]],
        [StrandRef(*row) for row in found["due"] + found["offered"]],
        [queue for queue, *_none in found["queues"]],
        [owner for owner, *_none in found["ended"]],
        [PoolId(*row[:2]) for row in found["pools"]],
    )


_NO_WAKE_UP = and_(
    strand_table.c.state == constant(StrandState.WAITING),
    strand_table.c.wake_at.is_(None),
    strand_table.c.waiting_for.in_([constant(what) for what in BY_TIME]),
)
_NOTHING_MOVES = and_(
    runs.c.status.in_([constant(status) for status in RunStatus if status not in AT_REST]),
    # Apart: each has its partial index.
    *(
        ~exists(select(strand_table.c.run).where(and_(strand_table.c.run == runs.c.id, strand_table.c.state == state)))
        for state in map(constant, (StrandState.READY, StrandState.RUNNING, StrandState.WAITING))
    ),
)
_UNMOVED = Prepared(
    union_all(
        select(select(strand_table.c.run).where(_NO_WAKE_UP).limit(BATCH).subquery().c.run),
        select(select(runs.c.id).where(_NOTHING_MOVES).limit(BATCH).subquery().c.id),
    )
)


def unmoved(connection: Connection) -> list[str]:
    """Runs that are not at rest and that nothing will ever move: some of them wait without a wake-up, of others nothing
    is ready, runs or waits. There should be none.
    """
    return list(dict.fromkeys(_UNMOVED.column(connection)))


def next_wait(connection: Connection, grace: float) -> float | None:
    """In how many seconds the next waiting strand has to be woken; None if none waits for a time. Those that are
    overdue are left to the next sweep.
    """
    found = (_NEXT_WAIT.value(connection, grace=grace), slots.next_offer(connection))
    return min((float(one) for one in found if one is not None), default=None)


def undelivered(
    connection: Connection,
    queue: str,
    *,
    depth: int | None,
    patience: float,
    blind_patience: float,
    elsewhere: frozenset[str] = frozenset(),
) -> list[StrandRef]:
    """Ready strands of a queue whose message was lost.

    A message counts as lost if it was never published; if messages that were published later have been carried; if the
    broker says that the queue is empty (``depth`` 0) and it is older than ``patience`` seconds; if the queue is not
    empty or the broker cannot say, and it is older than ``blind_patience``; or if it was published before the clock
    went back. Each publication doubles these times until a worker of the queue becomes free, so that the number of
    messages is bounded under any backlog. Runs of the definitions ``elsewhere`` are left to another broker's sweeps.
    """
    given = {"of_queue": queue, "patience": patience, "alone": patience if depth == 0 else blind_patience}
    if not elsewhere:
        return [StrandRef._make(row) for row in _UNDELIVERED.run(connection, **given).fetchall()]
    theirs = exists(select(runs.c.id).where(and_(runs.c.id == strand_table.c.run, runs.c.definition.in_(elsewhere))))
    return [StrandRef(*row) for row in connection.execute(_LOST_ONES.where(~theirs), given)]


def my_tick(connection: Connection, name: str, every_seconds: float) -> bool:
    """Whether it is this process's turn: at most one of all processes has it within ``every_seconds``."""
    return _TICK.value(connection, name=name, every=every_seconds) is not None


def strangers(connection: Connection) -> dict[str, float]:
    """How many seconds ago a message of an unknown run was last noted, by queue."""
    found = select(ticks.c.name, now() - ticks.c.at).where(ticks.c.name.startswith(STRANGERS, autoescape=True))
    return {name.removeprefix(STRANGERS): max(0.0, float(age)) for name, age in connection.execute(found)}


def missed(connection: Connection, places: Sequence[StrandRef]) -> list[Missed]:
    """The messages to publish again for these strands."""
    of_items = sorted({place.item for place in places})  # few of the ten thousand that one run may have
    wanted = _MISSED.where(
        and_(strand_table.c.run.in_(sorted({place.run for place in places})), strand_table.c.item.in_(of_items))
    )
    rows = {}
    for *strand, seq, definition, priority in map(tuple, connection.execute(wanted)):
        row = StrandRow._make(strand)
        rows[row.run, row.strand, row.item, row.gen] = row, definition, seq, priority
    found = (rows.get((place.run, place.strand, place.item, place.gen)) for place in places)
    return [missed_of(row, plan_of(connection, of), seq, priority) for row, of, seq, priority in filter(None, found)]


def unpublish(connection: Connection, nudges: tuple[Nudge, ...]) -> None:
    """The broker did not take these messages: leave them to the next sweep. Locks the runs in the order of their ids,
    so that two calls cannot deadlock.
    """
    ids = sorted({nudge.run_id for nudge in nudges})
    for start in range(0, len(ids), BATCH):
        some = runs.c.id.in_(ids[start : start + BATCH])
        connection.execute(select(runs.c.id).where(some).order_by(runs.c.id).with_for_update())
    given = [
        {"run_id": nudge.run_id, "strand_id": nudge.strand, "of_item": nudge.item, "my_gen": nudge.gen}
        for nudge in nudges
    ]
    _UNPUBLISH.many(connection, given)
