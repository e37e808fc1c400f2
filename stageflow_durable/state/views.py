"""Reading what ``store.views`` shows: runs, their stages, history and owners. No locks are taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, String, and_, bindparam, func, select

from stageflow_durable.clock import as_moment
from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.roster import Missing
from stageflow_durable.model.run import (
    AwaitedWorker,
    Erasure,
    Event,
    Run,
    RunSummary,
    WorkerView,
)
from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.model.waits import About, Strand
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.state import slots
from stageflow_durable.state.clock import now
from stageflow_durable.state.definitions import newest, plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.endings import WAITS, awaited_by
from stageflow_durable.state.load import attributes_of, calls_of, facts_of
from stageflow_durable.state.owners import alive_and_dead
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.roster import decoded, live
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    checkpoints,
    events,
    owners,
    runs,
    saga_steps,
    strands,
    tombstones,
)
from stageflow_durable.store.erasure import ERASE
from stageflow_durable.store.views import (
    MOVING,
    Beside,
    RunRows,
    about_of,
    erasure_of,
    event_of,
    full_id_of,
    listed,
    may_be_id,
    missing_of,
    need_of,
    run_of,
    worker_of,
)
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

BEYOND = "z" * 32
"""After an id's beginning: what comes after all ids that begin so, however the database sorts."""

_FACTS = Prepared(select(runs).where(runs.c.id == bindparam("run_id")))
_OUTPUTS = Prepared(
    select(checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema)
    .where(and_(checkpoints.c.run == bindparam("run_id"), checkpoints.c.item == NO_ITEM))
    .order_by(checkpoints.c.at)
)
_OUTCOME = Prepared(
    select(saga_steps.c.outcome).where(
        and_(
            saga_steps.c.run == bindparam("run_id"),
            saga_steps.c.stage == bindparam("of_stage"),
            saga_steps.c.item == bindparam("of_item"),
        )
    )
)
# The index is sorted as people sort, which a LIKE cannot use: first all that stands between, then exactly.
_FITS = func.substr(runs.c.id, 1, func.length(bindparam("prefix", type_=String))) == bindparam("prefix", type_=String)
_FITTING = Prepared(
    select(runs.c.id).where(and_(runs.c.id >= bindparam("prefix"), runs.c.id <= bindparam("beyond"), _FITS)).limit(3)
)
_HISTORY = Prepared(
    select(events)
    .where(and_(events.c.run == bindparam("run_id"), events.c.item == NO_ITEM, events.c.seq > bindparam("after")))
    .order_by(events.c.seq)
)
_ATTEMPTS = Prepared(
    select(attempts, owners.c.host, owners.c.pid)
    .join(owners, owners.c.id == attempts.c.owner, isouter=True)
    .where(and_(attempts.c.run == bindparam("run_id"), attempts.c.item == NO_ITEM))
    .order_by(attempts.c.n)
)
_STRANDS = Prepared(
    select(strands, owners.c.host, owners.c.pid)
    .join(owners, owners.c.id == strands.c.owner, isouter=True)
    .where(and_(strands.c.run == bindparam("run_id"), strands.c.item == NO_ITEM))
)
_CLOCK = Prepared(select(now()))
_OF_STRANDS = tuple(strands.c[name] for name in ("run", *Strand._fields))
_WAITS = Prepared(select(strands.c.strand).where(and_(strands.c.run == bindparam("run_id"), WAITS)).limit(1))
_APPROVALS = Prepared(select(approvals).where(approvals.c.run == bindparam("run_id")).order_by(approvals.c.n))
_CHECKPOINTS, _STEPS = (
    Prepared(select(table).where(and_(table.c.run == bindparam("run_id"), table.c.item == NO_ITEM)))
    for table in (checkpoints, saga_steps)
)


def facts(connection: Connection, run_id: str) -> RunFacts | None:
    """A run's row as it is now, unlocked."""
    row = _FACTS.run(connection, run_id=run_id).fetchone()
    return None if row is None else facts_of(row)


def full_id(connection: Connection, prefix: str) -> str:
    """The id of the one run that ``prefix`` fits. Raises UnknownRun naming what is wrong with it."""
    if not may_be_id(prefix):
        return full_id_of(prefix, (), None)
    found = _FITTING.column(connection, prefix=prefix, beyond=prefix + BEYOND)
    stone = None if found else connection.execute(select(tombstones).where(tombstones.c.run == prefix)).one_or_none()
    return full_id_of(prefix, found, stone)


def awaits(connection: Connection, run_id: str) -> tuple[AwaitedWorker, ...]:
    """The processes for whose confirmed end an undo of the run waits."""
    if not _WAITS.value(connection, run_id=run_id, for_ever=UNTIL_CONFIRMED):
        return ()
    return tuple(AwaitedWorker(row.id, row.host, row.pid, row.stage) for row in awaited_by(connection, run_id))


def outputs(connection: Connection, run_id: str) -> dict[str, Saved]:
    """Encoded outputs by stage."""
    found = _OUTPUTS.run(connection, run_id=run_id).fetchall()
    return {stage: Saved(delta, schema) for stage, delta, schema in found}


def outcome_of(connection: Connection, run_id: str, stage: str, item: int = 0) -> str:
    """``"ok"`` or ``"unknown"``: how the action stood when its undo began."""
    return str(_OUTCOME.value(connection, run_id=run_id, of_stage=stage, of_item=item))


def history(connection: Connection, run_id: str, after: int = 0) -> list[Event]:
    """A run's events with a higher number than ``after``, oldest first."""
    return [event_of(row, row.item) for row in _HISTORY.rows(connection, run_id=run_id, after=after)]


def workers(connection: Connection, limit: int = 200) -> list[WorkerView]:
    """Owners with what they run, the living first."""
    held: dict[str, list[str]] = {}
    running = select(strands.c.owner, strands.c.run, strands.c.stage).where(
        strands.c.state == constant(StrandState.RUNNING)
    )
    for owner, run, stage in connection.execute(running):
        held.setdefault(owner, []).append(f"{run}/{stage}")
    return [
        worker_of(row, held.get(row.id, ()), alive=bool(row.alive), profile=decoded(row.body))
        for row in alive_and_dead(connection, limit)
    ]


def run(connection: Connection, run_id: str, max_attempts: Mapping[str, int] | None = None) -> Run:
    """A run in full. ``max_attempts`` by stage, where the caller knows the retry policies."""
    found = facts(connection, run_id)
    if found is None:
        raise UnknownRun(f"no run {run_id}")
    plan = plan_of(connection, found.definition)
    on_strands = _STRANDS.rows(connection, run_id=run_id)  # first: what ends in between is seen as ended
    tried, saved, owed, asked = (
        part.rows(connection, run_id=run_id) for part in (_ATTEMPTS, _CHECKPOINTS, _STEPS, _APPROVALS)
    )
    rows = RunRows.of(on_strands, tried, saved, owed, asked, calls_of(connection, run_id))
    missing = _missing(connection, found, rows.idle_queues)
    awaited, described = awaits(connection, run_id), attributes_of(connection, run_id)
    about = _Asked(connection).about(found, max_attempts or {}) if found.phase in MOVING else None
    return run_of(
        found, plan, rows, max_attempts, Beside(described, missing, awaited, about, _erased(connection, found))
    )


def _erased(connection: Connection, run: RunFacts) -> Erasure | None:
    if run.erased_at is None:
        return None
    said = and_(events.c.run == run.id, events.c.item == NO_ITEM, events.c.type == ERASE)
    event = connection.execute(select(events).where(said).order_by(events.c.seq)).first()
    return None if event is None else erasure_of(event)


class _Asked:
    """What is asked once, however many runs are looked at: the time, the roster, and whom a run needs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._now = as_moment(_CLOCK.value(connection))
        self._roster = live(connection)
        self._missing: dict[tuple[str, str, str, str], Missing | None] = {}

    def about(self, run: RunFacts, most: Mapping[str, int]) -> About:
        """What has to be known of a run besides its rows."""
        plan, behind = plan_of(self._connection, run.definition), partial(slots.behind, self._connection, run.id)
        return about_of(plan, self._now, partial(self._needs, run), most, behind)

    def _needs(self, run: RunFacts, queue: str) -> Missing | None:
        key = run.pipeline, run.version, run.definition, queue
        if key not in self._missing:
            self._missing[key] = self._roster.missing(need_of(*key, newest(self._connection, run.pipeline)))
        return self._missing[key]


def with_waits(connection: Connection, found: Sequence[tuple[RunFacts, RunSummary]]) -> list[RunSummary]:
    """Runs of a list, each with what it waits for."""
    ids = [run.id for run, _summary in found if run.phase in MOVING]
    rows: dict[str, list[Any]] = {run_id: [] for run_id in ids}
    own = and_(strands.c.run.in_(ids), strands.c.item == NO_ITEM)
    for row in connection.execute(select(*_OF_STRANDS).where(own)) if ids else ():
        rows[row.run].append(row)
    asked = _Asked(connection) if ids else None
    return [
        listed(run, summary, rows.get(run.id, ()), None if asked is None else partial(asked.about, run, {}))
        for run, summary in found
    ]


def _missing(connection: Connection, run: RunFacts, queues: Sequence[str]) -> Missing | None:
    if run.phase is Phase.SETTLED or not queues:
        return None
    return missing_of(run, queues, newest(connection, run.pipeline), live(connection))
