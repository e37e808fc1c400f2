"""What a sweep looks for: work of the dead, waits that are due, messages that were never delivered, runs that are late.

Scans read in bounded batches along the partial indexes. What becomes of each find is a transition of its own under the
run's lock: any number of sweeps may run at once, and one that dies half-way leaves nothing half done.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    Double,
    Select,
    String,
    and_,
    bindparam,
    case,
    exists,
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import owners, queues, runs, ticks
from stageflow_durable.state.tables import strands as strand_table

BATCH = 500
"""How many strands one scan looks at."""


STRANGERS = "strangers in "
"""What the names of ticks begin with that note when messages of unknown runs were dropped, and from which queue."""


class Missed(NamedTuple):
    """A nudge to publish anew, and when and how often that was done before."""

    nudge: Nudge
    published_at: float | None
    nudges: int


class Place(NamedTuple):
    """A strand that a scan found, with the fence it had then."""

    run: str
    strand: str
    gen: int
    stage: str | None = None
    """Where the strand is, to be told."""


class Overdue(NamedTuple):
    """What a sweep looks after: strands of dead owners, runs past their deadline, waiting strands that should have been
    woken, and queues for which something is ready.
    """

    orphans: list[Place]
    late: list[str]
    due: list[Place]
    queues: list[str]


_PLACE = (strand_table.c.run, strand_table.c.strand, strand_table.c.gen, strand_table.c.stage)
_ORPHANS = (
    select(*_PLACE)
    .join(owners, owners.c.id == strand_table.c.owner)
    .where(and_(strand_table.c.state == constant(StrandState.RUNNING), owners.c.dead_at.is_not(None)))
    .limit(BATCH)
)
_DUE = (
    select(*_PLACE)
    .where(
        and_(
            strand_table.c.state == constant(StrandState.WAITING),
            strand_table.c.wake_at <= ago(bindparam("grace", type_=Double)),
        )
    )
    .order_by(strand_table.c.wake_at)
    .limit(BATCH)
)
# Past its pivot a run only goes forward: its deadline has no say any more.
_LATE = (
    select(runs.c.id)
    .where(and_(runs.c.phase == constant(Phase.FORWARD), runs.c.deadline <= ago(0.0), runs.c.pivot_passed.is_(False)))
    .limit(BATCH)
)
_MISSED = Prepared(
    select(
        *(strand_table.c[name] for name in ("direction", "stage", "queue", "published_at", "nudges")),
        *(runs.c[name] for name in ("seq", "definition", "priority")),
    )
    .join(runs, runs.c.id == strand_table.c.run)
    .where(
        and_(
            strand_table.c.run == bindparam("run_id"),
            strand_table.c.strand == bindparam("strand_id"),
            strand_table.c.gen == bindparam("my_gen"),
            strand_table.c.state == StrandState.READY,
        )
    )
)
_UNPUBLISH = Prepared(
    update(strand_table)
    .where(
        and_(
            strand_table.c.run == bindparam("run_id"),
            strand_table.c.strand == bindparam("strand_id"),
            strand_table.c.gen == bindparam("my_gen"),
            strand_table.c.state == StrandState.READY,
        )
    )
    .values(published_at=None)
)
_QUEUES = select(strand_table.c.queue).where(strand_table.c.state == constant(StrandState.READY)).distinct()


def _rows(which: str, scan: Select[Any]) -> Select[Any]:
    """What a scan finds as rows of one width, each with its name before it."""
    found = [*scan.subquery().c]
    return select(literal_column(f"'{which}'", String), *found, *(null() for _ in range(len(_PLACE) - len(found))))


# At once: most sweeps find nothing, and each question is a way to the database and back.
_SCANS = {"orphans": _ORPHANS, "late": _LATE, "due": _DUE, "queues": _QUEUES}
_OVERDUE = Prepared(union_all(*(_rows(which, scan) for which, scan in _SCANS.items())))
_SENT, _OF_QUEUE = strand_table.c.published_at, bindparam("of_queue", type_=String)
_MORE = case(*[(strand_table.c.nudges == n, float(2**n)) for n in range(8)], else_=256.0)
_SERVED = select(queues.c.served_at).where(queues.c.name == _OF_QUEUE).scalar_subquery()
_LOST = or_(
    _SENT.is_(None),
    _SERVED - bindparam("patience", type_=Double) * _MORE > _SENT,
    now() - _SENT > bindparam("alone", type_=Double) * _MORE,
)
_LOST_ONES = (
    select(*_PLACE)
    .where(and_(strand_table.c.state == constant(StrandState.READY), strand_table.c.queue == _OF_QUEUE, _LOST))
    .order_by(_SENT)
    .limit(BATCH)
)
_UNDELIVERED = Prepared(_LOST_ONES)


def _turn(dialect: Any) -> Any:
    last = now() - bindparam("every", type_=Double)
    return (
        dialect.insert(ticks)
        .values(at=now())
        .on_conflict_do_update(index_elements=["name"], set_={"at": now()}, where=ticks.c.at < last)
        .returning(ticks.c.name)
    )


_TICK = Prepared(_turn)


def overdue(connection: Connection, grace: float) -> Overdue:
    """What there is to do. ``grace``: how many seconds ago a waiting strand should have been woken."""
    found: dict[str, list[Any]] = {which: [] for which in _SCANS}
    for which, *row in _OVERDUE.run(connection, grace=grace).fetchall():
        found[which].append(row)
    return Overdue(
        [Place(*row) for row in found["orphans"]],
        [run for run, *_none in found["late"]],
        [Place(*row) for row in found["due"]],
        [queue for queue, *_none in found["queues"]],
    )


def undelivered(
    connection: Connection,
    queue: str,
    *,
    depth: int | None,
    patience: float,
    blind_patience: float,
    elsewhere: frozenset[str] = frozenset(),
) -> list[Place]:
    """Ready strands of a queue whose nudge was lost.

    A nudge counts as lost when it was never published; when nudges published later were served already; when the
    broker says that the queue is empty (``depth`` 0) and it is older than ``patience`` seconds; or, when the broker
    cannot say (``depth`` None), older than ``blind_patience``. Each publication doubles the patience, so that messages
    stay bounded under any backlog. Runs of the definitions ``elsewhere`` are left to the sweeps of another broker.
    """
    given = {"of_queue": queue, "patience": patience, "alone": patience if depth == 0 else blind_patience}
    if not elsewhere:
        return [Place._make(row) for row in _UNDELIVERED.run(connection, **given).fetchall()]
    theirs = exists(select(runs.c.id).where(and_(runs.c.id == strand_table.c.run, runs.c.definition.in_(elsewhere))))
    return [Place(*row) for row in connection.execute(_LOST_ONES.where(~theirs), given)]


def my_tick(connection: Connection, name: str, every_seconds: float) -> bool:
    """Whether it is this process's turn: at most one of all processes is told so in ``every_seconds``."""
    return _TICK.value(connection, name=name, every=every_seconds) is not None


def strangers(connection: Connection) -> dict[str, float]:
    """How many seconds ago a message of an unknown run was last noted, by queue."""
    found = select(ticks.c.name, now() - ticks.c.at).where(ticks.c.name.startswith(STRANGERS, autoescape=True))
    return {name.removeprefix(STRANGERS): max(0.0, float(age)) for name, age in connection.execute(found)}


def missed(connection: Connection, place: Place) -> Missed | None:
    """The message for a ready strand that none reached. Nothing is written before the broker took it (then
    :func:`nudged`): while the broker is away a history does not grow.
    """
    found = _MISSED.run(connection, run_id=place.run, strand_id=place.strand, my_gen=place.gen).fetchone()
    if found is None:
        return None
    direction, stage, queue, published_at, nudges, seq, definition, priority = found
    plan = plan_of(connection, definition)
    links = 1 if direction == Phase.BACKWARD else plan.remaining_on_strand(stage)
    # Marked by the event that will tell of it: the gate in Redis tells a new publication from a doubled message.
    nudge = Nudge(place.run, place.strand, place.gen, queue, seq + 1, links, priority)
    return Missed(nudge, published_at, nudges)


def unpublish(connection: Connection, nudges: tuple[Nudge, ...]) -> None:
    """The broker did not take them: leave them to the next sweep. The one transaction that touches many runs: in the
    order of their ids, against a deadlock with another of its kind.
    """
    ids = sorted({nudge.run_id for nudge in nudges})
    for start in range(0, len(ids), BATCH):
        some = runs.c.id.in_(ids[start : start + BATCH])
        connection.execute(select(runs.c.id).where(some).order_by(runs.c.id).with_for_update())
    given = [{"run_id": nudge.run_id, "strand_id": nudge.strand, "my_gen": nudge.gen} for nudge in nudges]
    _UNPUBLISH.many(connection, given)
