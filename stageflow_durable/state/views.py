"""Reading: runs, their stages, history and owners as the frozen views of ``model.run``. No locks are taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, String, and_, bindparam, func, select

from stageflow_durable.clock import as_moment, as_optional_moment
from stageflow_durable.codec import decode
from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.keys import stage_key, undo_key
from stageflow_durable.model.plan import PlannedStage
from stageflow_durable.model.roster import Missing, Profile
from stageflow_durable.model.run import (
    ApprovalView,
    AttemptView,
    AwaitedWorker,
    Event,
    Run,
    RunSummary,
    StageView,
    UndoView,
    WorkerView,
)
from stageflow_durable.model.stage_state import stage_state
from stageflow_durable.model.status import AttemptState, Phase, StageState, StepState, StrandState, WaitingFor
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.endings import WAITS, awaited_by
from stageflow_durable.state.handed_back import need
from stageflow_durable.state.load import facts_of
from stageflow_durable.state.owners import alive_and_dead
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.roster import live
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
from stageflow_durable.state.vouched import AUDIT
from stageflow_durable.transitions.draft import ACTIVE, NO_ITEM
from stageflow_durable.transitions.hand_back import is_handed_back
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

BEYOND = "z" * 32
"""After an id's beginning: what comes after all ids that begin so, however the database sorts."""

_FACTS = Prepared(select(runs).where(runs.c.id == bindparam("run_id")))
_OUTPUTS = Prepared(
    select(checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema)
    .where(checkpoints.c.run == bindparam("run_id"))
    .order_by(checkpoints.c.at)
)
# The index is sorted as people sort, which a LIKE cannot use: first all that stands between, then exactly.
_FITS = func.substr(runs.c.id, 1, func.length(bindparam("prefix", type_=String))) == bindparam("prefix", type_=String)
SHORTEST_PREFIX = 6
"""Characters of an id that may stand for it. Runs of a quarter of an hour begin with the same six."""

_FITTING = Prepared(
    select(runs.c.id).where(and_(runs.c.id >= bindparam("prefix"), runs.c.id <= bindparam("beyond"), _FITS)).limit(3)
)
_HISTORY = Prepared(
    select(events).where(and_(events.c.run == bindparam("run_id"), events.c.item == NO_ITEM)).order_by(events.c.seq)
)
_ATTEMPTS = Prepared(
    select(attempts, owners.c.host, owners.c.pid)
    .join(owners, owners.c.id == attempts.c.owner, isouter=True)
    .where(attempts.c.run == bindparam("run_id"))
    .order_by(attempts.c.n)
)
_STRANDS = Prepared(
    select(strands, owners.c.host, owners.c.pid)
    .join(owners, owners.c.id == strands.c.owner, isouter=True)
    .where(strands.c.run == bindparam("run_id"))
)
_WAITS = Prepared(select(strands.c.strand).where(and_(strands.c.run == bindparam("run_id"), WAITS)).limit(1))
_APPROVALS = Prepared(select(approvals).where(approvals.c.run == bindparam("run_id")).order_by(approvals.c.n))
_CHECKPOINTS, _STEPS = (
    Prepared(select(table).where(table.c.run == bindparam("run_id"))) for table in (checkpoints, saga_steps)
)


def facts(connection: Connection, run_id: str) -> RunFacts | None:
    """A run's row as it is now, unlocked."""
    row = _FACTS.run(connection, run_id=run_id).fetchone()
    return None if row is None else facts_of(row)


def full_id(connection: Connection, prefix: str) -> str:
    """The id of the one run that ``prefix`` fits. Raises UnknownRun naming what is wrong with it."""
    if not (prefix.isascii() and prefix.isprintable()):
        raise UnknownRun(f"no run {prefix!r}")  # a database refuses a NUL in its own words, which quote the statement
    found = _FITTING.column(connection, prefix=prefix, beyond=prefix + BEYOND)
    if prefix in found:
        return prefix
    pruned = None if found else _pruned(connection, prefix)
    if pruned is not None:
        raise UnknownRun(pruned)
    if found and len(prefix) < SHORTEST_PREFIX:
        raise UnknownRun(f"{prefix!r} is too short for a run id; give at least {SHORTEST_PREFIX} characters")
    if len(found) != 1:
        fitting = ", ".join(map(str, found))
        raise UnknownRun(
            f"no run {prefix!r}" if not found else f"{prefix!r} fits more than one run, {fitting}; give more of the id"
        )
    return str(found[0])


def _pruned(connection: Connection, run_id: str) -> str | None:
    row = connection.execute(select(tombstones).where(tombstones.c.run == run_id)).one_or_none()
    if row is None:
        return None
    at = as_moment(row.finished_at)
    return f"run {run_id} {row.status} at {at:%Y-%m-%d %H:%M} UTC and was pruned; its key stays taken"


def summary_of(run: RunFacts) -> RunSummary:
    """A row as a line of a list."""
    return RunSummary(
        run.id,
        run.pipeline,
        run.version,
        run.client_id,
        run.key,
        run.status,
        run.phase,
        run.cause,
        run.park_reason,
        run.error,
        run.error_stage,
        run.op_version,
        run.pivot_passed,
        as_moment(run.created_at),
        as_moment(run.updated_at),
        as_optional_moment(run.finished_at),
        as_optional_moment(run.deadline),
        parent=run.parent,
    )


def awaits(connection: Connection, run_id: str) -> tuple[AwaitedWorker, ...]:
    """The processes for whose confirmed end an undo of the run waits."""
    if not _WAITS.value(connection, run_id=run_id, for_ever=UNTIL_CONFIRMED):
        return ()
    return tuple(AwaitedWorker(row.id, row.host, row.pid, row.stage) for row in awaited_by(connection, run_id))


def outputs(connection: Connection, run_id: str) -> dict[str, Saved]:
    """Encoded outputs by stage."""
    found = _OUTPUTS.run(connection, run_id=run_id).fetchall()
    return {stage: Saved(delta, schema) for stage, delta, schema in found}


def history(connection: Connection, run_id: str) -> list[Event]:
    """A run's events, oldest first."""
    rows = _HISTORY.rows(connection, run_id=run_id)
    return [Event(row.run, row.seq, row.type, as_moment(row.at), _told(row.data), row.item) for row in rows]


def _told(data: str) -> dict[str, Any]:
    """What an event says to people: without its entries about rows, which are for the audit."""
    told: dict[str, Any] = decode(data)
    return {name: value for name, value in told.items() if name != AUDIT}


def workers(connection: Connection, limit: int = 200) -> list[WorkerView]:
    """Owners with what they run, the living first."""
    held: dict[str, list[str]] = {}
    running = select(strands.c.owner, strands.c.run, strands.c.stage).where(
        strands.c.state == constant(StrandState.RUNNING)
    )
    for owner, run, stage in connection.execute(running):
        held.setdefault(owner, []).append(f"{run}/{stage}")
    return [
        WorkerView(
            row.id,
            row.host,
            row.pid,
            bool(row.alive),
            as_moment(row.started_at),
            as_moment(row.expires_at),
            tuple(held.get(row.id, ())),
            as_optional_moment(row.dead_at),
            bool(row.confirmed),
            confirmed_by=row.confirmed_by,
            awaited=bool(row.awaited and not row.confirmed),
            **_known(row.body),
        )
        for row in alive_and_dead(connection, limit)
    ]


def _known(body: str | None) -> dict[str, Any]:
    if body is None:
        return {}
    profile = Profile.decode(body)
    pipelines = tuple(f"{name} v{known.version}" for name, known in profile.pipelines.items())
    return {"engine": profile.engine, "broker": profile.broker, "queues": profile.queues, "pipelines": pipelines}


def run(connection: Connection, run_id: str, max_attempts: Mapping[str, int] | None = None) -> Run:
    """A run in full. ``max_attempts`` by stage, where the caller knows the retry policies."""
    found = facts(connection, run_id)
    if found is None:
        raise UnknownRun(f"no run {run_id}")
    plan = plan_of(connection, found.definition)
    rows = _Rows.read(connection, run_id)
    stages = tuple(_stage(found, stage, rows, (max_attempts or {}).get(stage.name)) for stage in plan.stages)
    missing = _missing(connection, found, rows)
    summary = replace(
        summary_of(found),
        missing=missing,
        awaits=awaits(connection, run_id),
        waits_for=waits_for(rows.strands.values()),
    )
    return Run(
        **{name: getattr(summary, name) for name in RunSummary.__slots__},
        input=decode(found.input, shown=True),
        metadata=decode(found.metadata, shown=True),
        stages=stages,
    )


def waits_for(on_strands: Iterable[Any]) -> tuple[WaitingFor, ...]:
    """What keeps a run from moving, by its strands: what is soonest due first. Empty where one of them may go on."""
    rows = [row for row in on_strands if row.state in ACTIVE]
    if any(row.state != StrandState.WAITING for row in rows):
        return ()
    rows.sort(key=lambda row: UNTIL_CONFIRMED if row.wake_at is None else row.wake_at)
    return tuple(dict.fromkeys(WaitingFor(row.waiting_for) for row in rows))


def _missing(connection: Connection, run: RunFacts, rows: _Rows) -> Missing | None:
    """Why no live worker carries a strand that waits for one."""
    idle = [row for row in rows.strands.values() if row.state == StrandState.READY or is_handed_back(row)]
    if run.phase is Phase.SETTLED or not idle:
        return None
    known = live(connection)
    about = run.pipeline, run.version, run.definition
    found = (known.missing(need(connection, *about, queue)) for queue in sorted({row.queue for row in idle}))
    return next((missing for missing in found if missing is not None), None)


@dataclass(frozen=True, slots=True)
class _Rows:
    checkpoints: Mapping[str, Any]
    attempts: Mapping[tuple[str, str], Sequence[AttemptView]]
    strands: Mapping[tuple[str, str], Any]
    steps: Mapping[str, Any]
    approvals: Mapping[str, Any]

    @classmethod
    def read(cls, connection: Connection, run_id: str) -> _Rows:
        grouped: dict[tuple[str, str], list[AttemptView]] = {}
        on_strands = _STRANDS.rows(connection, run_id=run_id)  # first: what ends in between is seen as ended
        for row in _ATTEMPTS.rows(connection, run_id=run_id):
            grouped.setdefault((row.stage, row.direction), []).append(_ended(row))
        for row in on_strands:
            tried = grouped.setdefault((row.stage, row.direction), [])
            if row.state == StrandState.RUNNING and not (tried and tried[-1].n >= row.attempt):
                tried.append(_running(row))
        return cls(
            {row.stage: row for row in _CHECKPOINTS.rows(connection, run_id=run_id)},
            grouped,
            {(row.stage, row.direction): row for row in on_strands},
            {row.stage: row for row in _STEPS.rows(connection, run_id=run_id)},
            {row.stage: row for row in _APPROVALS.rows(connection, run_id=run_id)},
        )


def _stage(run: RunFacts, stage: PlannedStage, rows: _Rows, max_attempts: int | None) -> StageView:
    tried = rows.attempts.get((stage.name, Phase.FORWARD), ())
    strand = rows.strands.get((stage.name, Phase.FORWARD))
    saved = rows.checkpoints.get(stage.name)
    undo = _undo(run, stage, rows)
    return StageView(
        name=stage.name,
        kind=stage.kind,
        state=_state(run, stage, saved, strand, tried, undo),
        after=stage.after,
        pivot=stage.pivot,
        tries=sum(row.state not in (AttemptState.UNKNOWN, AttemptState.VOID) for row in tried),
        lost=sum(row.state is AttemptState.UNKNOWN for row in tried),
        max_attempts=max_attempts,
        key=stage_key(run.id, stage.name),
        output=decode(saved.delta, shown=True) if saved is not None and saved.delta is not None else None,
        error=next((row.error for row in reversed(tried) if row.error), None) if saved is None else None,
        wake_at=as_optional_moment(strand.wake_at) if strand is not None else None,
        attempts=tuple(tried),
        undo=undo,
        progress=decode(strand.progress, shown=True) if strand is not None and strand.progress else None,
        on_unknown=stage.on_unknown,
        waiting_for=_waiting_for(strand),
        approval=approval_view(stage, rows.approvals.get(stage.name)),
    )


def approval_view(stage: PlannedStage, row: Any) -> ApprovalView | None:
    """A row of what was asked, as people see it."""
    if row is None:
        return None
    return ApprovalView(
        stage.name,
        row.n,
        decode(row.content, shown=True),
        row.digest,
        stage.approvers,
        as_moment(row.asked_at),
        row.decision,
        row.actor,
        bool(row.authenticated),
        row.reason,
        as_optional_moment(row.decided_at),
    )


def _waiting_for(strand: Any) -> WaitingFor | None:
    return None if strand is None or strand.waiting_for is None else WaitingFor(strand.waiting_for)


def _running(row: Any) -> AttemptView:
    """The attempt that a strand holds; its row is written when it is over."""
    began = as_moment(row.began_at)
    return AttemptView(row.attempt, AttemptState.RUNNING, row.owner, row.host, row.pid, began, None, None, None, None)


def _ended(row: Any) -> AttemptView:
    return AttemptView(
        row.n,
        AttemptState(row.state),
        row.owner,
        row.host,
        row.pid,
        as_moment(row.began_at),
        as_moment(row.ended_at),
        row.error,
        row.category,
        row.delay,
    )


def _undo(run: RunFacts, stage: PlannedStage, rows: _Rows) -> UndoView | None:
    step = rows.steps.get(stage.name)
    if stage.undo is None:
        return None
    if step is None:
        return UndoView(stage.undo, StepState.VOID, None, (), undo_key(run.id, stage.name))
    tried = tuple(rows.attempts.get((stage.name, Phase.BACKWARD), ()))
    strand = rows.strands.get((stage.name, Phase.BACKWARD))
    return UndoView(
        stage.undo,
        StepState(step.state),
        step.error,
        tried,
        undo_key(run.id, stage.name),
        _waiting_for(strand),
        as_optional_moment(strand.wake_at) if strand is not None else None,
    )


def _state(
    run: RunFacts,
    stage: PlannedStage,
    saved: Any,
    strand: Any,
    tried: Sequence[AttemptView],
    undo: UndoView | None,
) -> StageState:
    return stage_state(
        run.phase,
        run.status,
        skipped=None if saved is None else bool(saved.skipped),
        strand=None if strand is None else StrandState(strand.state),
        last_attempt=tried[-1].state if tried else None,
        step=None if undo is None else undo.state,
        unanswered=stage.takes_answers and run.error_stage == stage.name,
    )
