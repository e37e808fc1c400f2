"""What a sweep does: take work from the dead, wake what is due, find what was never delivered, stop what is late.

Each action is a transaction of its own under the run's lock and a compare-and-set: any number of sweeps may run at
once, and one that dies half-way leaves nothing half done. Scans read in bounded batches along the partial indexes.
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
    literal_column,
    null,
    or_,
    select,
    union_all,
    update,
)

from stageflow_durable.model.status import Cause, ParkReason, Phase, StepState, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import strands
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.locked import LockedRun, lock, seen
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.settlement import DEADLINE_PASSED, drain, nudge_of, undo_ended
from stageflow_durable.state.tables import owners, queues, runs, ticks
from stageflow_durable.state.tables import strands as strand_table

BATCH = 500
"""How many strands one scan looks at."""


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


class Overdue(NamedTuple):
    """What a sweep looks after: strands of dead owners, runs past their deadline, waiting strands that should have been
    woken, and queues for which something is ready.
    """

    orphans: list[Place]
    late: list[str]
    due: list[Place]
    queues: list[str]


_PLACE = (strand_table.c.run, strand_table.c.strand, strand_table.c.gen)
_ORPHANS = (
    select(*_PLACE)
    .join(owners, owners.c.id == strand_table.c.owner)
    .where(and_(strand_table.c.state == constant(StrandState.RUNNING), owners.c.dead_at.is_not(None)))
    .limit(BATCH)
)
_OWNER = Prepared(
    select(owners.c.host, owners.c.pid, owners.c.dead_at, owners.c.confirmed).where(owners.c.id == bindparam("held_by"))
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
_UNDELIVERED = Prepared(
    select(*_PLACE)
    .where(and_(strand_table.c.state == constant(StrandState.READY), strand_table.c.queue == _OF_QUEUE, _LOST))
    .order_by(_SENT)
    .limit(BATCH)
)


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
    connection: Connection, queue: str, *, depth: int | None, patience: float, blind_patience: float
) -> list[Place]:
    """Ready strands of a queue whose nudge was lost.

    A nudge counts as lost when it was never published; when nudges published later were served already; when the
    broker says that the queue is empty (``depth`` 0) and it is older than ``patience`` seconds; or, when the broker
    cannot say (``depth`` None), older than ``blind_patience``. Each publication doubles the patience, so that messages
    stay bounded under any backlog.
    """
    alone = patience if depth == 0 else blind_patience
    found = _UNDELIVERED.run(connection, of_queue=queue, patience=patience, alone=alone)
    return [Place._make(row) for row in found.fetchall()]


def my_tick(connection: Connection, name: str, every_seconds: float) -> bool:
    """Whether it is this process's turn: at most one of all processes is told so in ``every_seconds``."""
    return _TICK.value(connection, name=name, every=every_seconds) is not None


def _at(
    connection: Connection, place: Place, audit_key: bytes, *states: StrandState
) -> tuple[LockedRun, strands.StrandRow] | None:
    """Lock the run and find the strand as the scan saw it (same fence), or None when somebody was first."""
    run = lock(connection, place.run, audit_key)
    row = strands.one(connection, place.run, place.strand) if run else None
    if run is None or row is None or row.gen != place.gen or row.state not in states:
        return None
    return run, row


def take(
    connection: Connection, place: Place, audit_key: bytes, *, max_lost: int, grace: float
) -> tuple[Nudge, ...] | None:
    """Take a strand from its dead owner: the fence rises, the attempt's outcome is unknown. None when there was
    nothing to take.
    """
    found = _at(connection, place, audit_key, StrandState.RUNNING)
    if found is None:
        return None
    run, row = found
    owner = next(iter(_OWNER.rows(connection, held_by=row.owner)), None)
    if owner is None or owner.dead_at is None:
        return None
    why = f"{'process' if owner.confirmed else 'lease'} of {owner.host} (pid {owner.pid}) was lost"
    strands.lose_attempt(run, row, None if owner.confirmed else grace, why)
    strands.change(
        connection,
        run.id,
        row.strand,
        state=StrandState.REST,
        owner=None,
        gen=row.gen + 1,
        lost=row.lost + 1,
        progress=None,
    )
    run.emit(
        "stage.lost",
        stage=row.stage,
        attempt=row.attempt,
        owner=row.owner,
        undo=row.direction == Phase.BACKWARD,
        error=why,
    )
    row = row._replace(gen=row.gen + 1, lost=row.lost + 1, owner=None, state=StrandState.REST)
    nudges = (_redo_undo if row.direction == Phase.BACKWARD else _redo)(run, row, why, max_lost)
    run.flush()
    return nudges


def _redo(run: LockedRun, row: strands.StrandRow, why: str, max_lost: int) -> tuple[Nudge, ...]:
    planned = run.plan.by_name[row.stage]
    if run.facts.phase is not Phase.FORWARD:
        doubtful_pivot = ParkReason.UNKNOWN if planned.pivot else None
        return drain(
            run, Cause.FAILED, error=f"{row.stage}: outcome unknown: {why}", stage=row.stage, park=doubtful_pivot
        )
    if planned.on_unknown == "park":
        return drain(
            run, Cause.FAILED, error=f"{row.stage}: outcome unknown: {why}", stage=row.stage, park=ParkReason.UNKNOWN
        )
    if planned.on_unknown == "compensate":
        park = ParkReason.UNKNOWN if planned.pivot else None
        return drain(run, Cause.FAILED, error=f"{row.stage}: outcome unknown: {why}", stage=row.stage, park=park)
    if row.lost >= max_lost:
        return drain(
            run,
            Cause.FAILED,
            error=f"{row.stage}: {row.lost} processes were lost in it; the last: {why}",
            stage=row.stage,
            park=ParkReason.POISON,
        )
    return (_ready_again(run, row),)


def _redo_undo(run: LockedRun, row: strands.StrandRow, why: str, max_lost: int) -> tuple[Nudge, ...]:
    if row.lost < max_lost:
        return (_ready_again(run, row),)
    strands.change(run.connection, run.id, row.strand, state=StrandState.DONE)
    strands.set_step(
        run,
        row.stage,
        StepState.COMPENSATION_FAILED,
        error=f"{row.lost} processes were lost in it; {why}",
    )
    run.emit("work.compensation_failed", stage=row.stage, attempt=row.attempt, error=why)
    return undo_ended(run)[0]


def _ready_again(run: LockedRun, row: strands.StrandRow) -> Nudge:
    strands.change(
        run.connection, run.id, row.strand, state=StrandState.READY, published_at=run.clock, nudges=0, wake_at=None
    )
    return nudge_of(run, row)


def wake(connection: Connection, place: Place, audit_key: bytes) -> Nudge | None:
    """Make a due strand ready, to be published now."""
    found = _at(connection, place, audit_key, StrandState.WAITING)
    if found is None:
        return None
    run, row = found
    if (row.wake_at or 0.0) > run.clock:
        return None  # somebody woke it since the scan, and it waits again
    run.emit("stage.woken", stage=row.stage, strand=row.strand)
    # ``nudges`` stays: what is handed back again and again is offered less and less often.
    strands.change(connection, run.id, row.strand, state=StrandState.READY, wake_at=None, published_at=run.clock)
    nudge = nudge_of(run, row)
    run.flush()
    return nudge


def missed(connection: Connection, place: Place) -> Missed | None:
    """The message for a ready strand that none reached. Nothing is written before the broker took it (then
    :func:`nudged`): while the broker is away a history does not grow.
    """
    row = strands.one(connection, place.run, place.strand)
    if row is None or row.gen != place.gen or row.state != StrandState.READY:
        return None
    run = seen(connection, place.run)
    # Marked by the event that will tell of it: the gate in Redis tells a new publication from a doubled message.
    nudge = nudge_of(run, row)._replace(mark=run.facts.seq + 1)
    return Missed(nudge, row.published_at, row.nudges)


def nudged(connection: Connection, missed: Missed, audit_key: bytes) -> bool:
    """Note that the broker took it; False when somebody took the strand meanwhile, or published it too."""
    nudge = missed.nudge
    found = _at(connection, Place(nudge.run_id, nudge.strand, nudge.gen), audit_key, StrandState.READY)
    if found is None or (found[1].published_at, found[1].nudges) != missed[1:]:
        return False
    run, row = found
    run.emit("stage.nudged", stage=row.stage, strand=row.strand)
    strands.change(connection, run.id, row.strand, published_at=run.clock, nudges=row.nudges + 1)
    run.flush()
    return True


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


def expire(connection: Connection, run_id: str, audit_key: bytes) -> tuple[Nudge, ...]:
    """Stop a run that is past its deadline."""
    run = lock(connection, run_id, audit_key)
    if run is None or not run.is_late:
        return ()
    nudges = drain(run, Cause.DEADLINE, error=DEADLINE_PASSED)
    run.flush()
    return nudges
