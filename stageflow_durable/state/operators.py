"""What a person may do to a run. Each verb locks the run, checks the ``op_version`` that the person saw, and raises
the fence.
 A verb that meets a changed run raises OperatorConflict; one that the run's state does not permit raises NotAllowed
with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, and_, update

from stageflow_durable.errors import NotAllowed, OperatorConflict, UnknownRun
from stageflow_durable.model.status import OPEN_STEPS, Cause, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import strands
from stageflow_durable.state.commit import advance
from stageflow_durable.state.locked import LockedRun, lock
from stageflow_durable.state.settlement import drain, go_backward, nudge_of
from stageflow_durable.state.tables import strands as strand_table

_UNFINISHED = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.WAITING})


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for what, why, and which version of the run they looked at (None: whatever it is now)."""

    run_id: str
    verb: str
    reason: str
    actor: str
    op_version: int | None = None
    past_pivot: bool = False


def _locked(connection: Connection, order: Order, audit_key: bytes) -> LockedRun:
    run = lock(connection, order.run_id, audit_key)
    if run is None:
        raise UnknownRun(f"no run {order.run_id}")
    if order.op_version is not None and run.facts.op_version != order.op_version:
        raise OperatorConflict(order.run_id, order.verb)
    run.change(op_version=run.facts.op_version + 1)
    run.emit(f"operator.{order.verb}", actor=order.actor, reason=order.reason, past_pivot=order.past_pivot)
    return run


def _refuse_past_pivot(run: LockedRun, order: Order) -> None:
    if run.facts.pivot_passed and not order.past_pivot:
        raise NotAllowed(run.id, order.verb, "its pivot, the point of no return, was passed; --past-pivot overrides it")


def cancel(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Stop the run; completed work is undone. A run that is stopping already is left alone."""
    run = _locked(connection, order, audit_key)
    if run.facts.status in (RunStatus.STOPPING, RunStatus.COMPENSATING):
        nudges: tuple[Nudge, ...] = ()
    elif run.facts.status in _UNFINISHED | {RunStatus.PARKED}:
        _refuse_past_pivot(run, order)
        nudges = _turn(run, Cause.CANCELLED, order)
    else:
        raise NotAllowed(run.id, order.verb, f"it is {run.facts.status}")
    run.flush()
    return nudges


def compensate(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Undo what the run did, or try failed undos again."""
    run = _locked(connection, order, audit_key)
    _refuse_past_pivot(run, order)
    status = run.facts.status
    if status in (RunStatus.COMPENSATING, RunStatus.STOPPING):
        raise NotAllowed(run.id, order.verb, f"it is {status} already")
    if status in (RunStatus.SUCCEEDED, RunStatus.COMPENSATED):
        raise NotAllowed(run.id, order.verb, f"it is {status}, and nothing leaves that state")
    nudges = _again(run) if status is RunStatus.COMPENSATION_FAILED else _turn(run, Cause.OPERATOR, order)
    run.flush()
    return nudges


def _turn(run: LockedRun, cause: Cause, order: Order) -> tuple[Nudge, ...]:
    """Bring the run to a halt for ``cause``, from wherever it is."""
    run.change(past_pivot=order.past_pivot or run.facts.past_pivot)
    if run.facts.phase is not Phase.SETTLED:
        return drain(run, cause, error=order.reason)
    if cause is Cause.OPERATOR and not OPEN_STEPS.intersection(strands.steps(run.connection, run.id).values()):
        raise NotAllowed(run.id, order.verb, "there is nothing to undo; cancel or resume it")
    run.change(phase=Phase.FORWARD, status=RunStatus.RUNNING, park_reason=None, finished_at=None)
    return drain(run, cause, error=run.facts.error or order.reason, stage=run.facts.error_stage)


def _again(run: LockedRun) -> tuple[Nudge, ...]:
    failed = [
        stage
        for stage, state in strands.steps(run.connection, run.id).items()
        if state is StepState.COMPENSATION_FAILED
    ]
    for stage in failed:
        recorded = stage in strands.finished(run.connection, run.id)
        strands.set_step(run.connection, run.id, stage, StepState.RECORDED if recorded else StepState.INTENDED)
    return go_backward(run)


def resume(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Let a run that is parked, failed or cancelled go forward again from its last checkpoints."""
    run = _locked(connection, order, audit_key)
    if run.facts.status not in (RunStatus.PARKED, RunStatus.FAILED, RunStatus.CANCELLED):
        raise NotAllowed(
            run.id, order.verb, f"it is {run.facts.status}; only parked, failed and cancelled runs can be resumed"
        )
    undone = {StepState.COMPENSATED, StepState.COMPENSATION_FAILED, StepState.SKIPPED}
    if undone.intersection(strands.steps(run.connection, run.id).values()):
        raise NotAllowed(run.id, order.verb, "part of its work was undone")
    nudges = _forward(run)
    run.flush()
    return nudges


def _forward(run: LockedRun) -> tuple[Nudge, ...]:
    run.change(
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        cause=None,
        error=None,
        error_stage=None,
        park_reason=None,
        finished_at=None,
    )
    return tuple(
        _revive(run, row)
        for row in strands.all_of(run.connection, run.id)
        if row.state == StrandState.REST and row.direction == Phase.FORWARD
    )


def _revive(run: LockedRun, row: strands.StrandRow) -> Nudge:
    # Against messages and owners from before the person's decision: gen rises.
    gen = row.gen + 1
    strands.change(
        run.connection,
        run.id,
        row.strand,
        state=StrandState.READY,
        gen=gen,
        tries=0,
        lost=0,
        delay=None,
        first_at=None,
        wake_at=None,
        published_at=run.clock,
        nudges=0,
    )
    return nudge_of(run, row._replace(gen=gen))


def settle_unknown(
    connection: Connection, order: Order, audit_key: bytes, stage: str, delta: str | None
) -> tuple[Nudge, ...]:
    """Record what a person found out about a stage in doubt: done, with its output as ``delta``, or (None) not done.
    Then go on.
    """
    run = _locked(connection, order, audit_key)
    row = _doubtful(run, order, stage)
    strands.clear_doubt(connection, run.id, stage)
    run.emit("stage.settled", stage=stage, done=delta is not None, actor=order.actor)
    planned = run.plan.by_name[stage]
    if delta is None:
        nudges = _not_done(run, stage, planned.undo is not None, planned.pivot)
    else:
        nudges = _found_done(run, row, stage, delta)
    run.flush()
    return nudges


def _doubtful(run: LockedRun, order: Order, stage: str) -> strands.StrandRow:
    if stage not in run.plan.by_name:
        raise NotAllowed(run.id, order.verb, f"it has no stage {stage!r}; it has: {', '.join(run.plan.by_name)}")
    if run.facts.status not in (RunStatus.PARKED, RunStatus.FAILED):
        raise NotAllowed(run.id, order.verb, f"it is {run.facts.status}; only parked and failed runs can be settled")
    rows = strands.all_of(run.connection, run.id)
    row = next(
        (
            row
            for row in rows
            if row.stage == stage and row.state == StrandState.REST and row.direction == Phase.FORWARD
        ),
        None,
    )
    if row is None or not strands.in_doubt(run.connection, run.id, stage):
        raise NotAllowed(run.id, order.verb, f"the outcome of {stage!r} is not in doubt")
    return row


def _not_done(run: LockedRun, stage: str, has_undo: bool, pivot: bool) -> tuple[Nudge, ...]:
    if has_undo:
        strands.set_step(run.connection, run.id, stage, StepState.VOID)
    if pivot:
        run.change(pivot_passed=False)
    return _forward(run)


def _found_done(run: LockedRun, row: strands.StrandRow, stage: str, delta: str) -> tuple[Nudge, ...]:
    strands.checkpoint(run.connection, run.id, stage, delta, run.clock)
    if run.plan.by_name[stage].undo is not None:
        strands.set_step(run.connection, run.id, stage, StepState.RECORDED)
    others = [
        other
        for other in strands.all_of(run.connection, run.id)
        if other.state == StrandState.REST and other.direction == Phase.FORWARD and other.strand != row.strand
    ]
    run.change(
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        cause=None,
        error=None,
        error_stage=None,
        park_reason=None,
        finished_at=None,
    )
    bump = and_(strand_table.c.run == run.id, strand_table.c.strand == row.strand)
    run.connection.execute(update(strand_table).where(bump), {"gen": row.gen + 1})
    revived = tuple(_revive(run, other) for other in others)
    return (*revived, *advance(run, row.strand, stage).nudges)
