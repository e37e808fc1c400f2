"""What a person may do to a run. Each verb locks the run, checks the ``op_version`` that the person saw, and raises
the fence.

A verb that meets a changed run raises OperatorConflict; one that the run's state does not permit raises NotAllowed
with the reason, by the rules of :mod:`stageflow_durable.model.verbs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from stageflow_durable.errors import NotAllowed, OperatorConflict, UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, Cause, ParkReason, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.verbs import TURNING_BACK, VerbName, refusal, standing
from stageflow_durable.model.work import Nudge
from stageflow_durable.saga.settle import undone
from stageflow_durable.state import definitions, idempotency_keys, strands, views
from stageflow_durable.state.commit import advance
from stageflow_durable.state.locked import LockedRun, lock
from stageflow_durable.state.settlement import drain, end, go_backward, nudge_of, unpass


@dataclass(frozen=True, slots=True)
class Order:
    """Who asks for what, why, and which version of the run they looked at (None: whatever it is now). ``skip``: stages
    whose undo is given up.
    """

    run_id: str
    verb: str
    reason: str
    actor: str
    op_version: int | None = None
    past_pivot: bool = False
    skip: tuple[str, ...] = ()


def _locked(connection: Connection, order: Order, audit_key: bytes) -> LockedRun:
    run = lock(connection, order.run_id, audit_key)
    if run is None:
        raise UnknownRun(f"no run {order.run_id}")
    if order.op_version is not None and run.facts.op_version != order.op_version:
        raise OperatorConflict(order.run_id, order.verb)
    run.change(op_version=run.facts.op_version + 1)
    run.emit(f"operator.{order.verb}", actor=order.actor, reason=order.reason, past_pivot=order.past_pivot)
    return run


def _permit(run: LockedRun, order: Order, stage: str | None = None) -> None:
    """Refuse what the rules refuse, seen under the lock."""
    facts = standing(views.run(run.connection, run.id))
    why = refusal(VerbName(order.verb), facts, stage=stage, past_pivot=order.past_pivot)
    if why is not None:
        raise NotAllowed(run.id, order.verb, why)


def cancel(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Stop the run; completed work is undone. A run that is stopping already is left alone."""
    run = _locked(connection, order, audit_key)
    nudges: tuple[Nudge, ...] = ()
    if run.facts.status not in TURNING_BACK:
        _permit(run, order)
        nudges = _turn(run, Cause.CANCELLED, order)
    elif run.facts.phase is Phase.DRAINING and run.facts.park_reason not in (None, ParkReason.UNKNOWN):
        run.change(cause=Cause.CANCELLED, park_reason=None)  # it was about to be parked: the person has decided
    run.flush()
    return nudges


def compensate(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Undo what the run did, or try failed undos again; ``order.skip`` gives undos up instead, visibly."""
    run = _locked(connection, order, audit_key)
    _permit(run, order)
    _skip(run, order)
    failed = run.facts.status is RunStatus.COMPENSATION_FAILED
    nudges = _again(run) if failed else _turn(run, Cause.OPERATOR, order)
    run.flush()
    return nudges


_SKIPPABLE = OPEN_STEPS | {StepState.COMPENSATION_FAILED}


def _skip(run: LockedRun, order: Order) -> None:
    if not order.skip:
        return
    steps = strands.steps(run.connection, run.id)
    if run.facts.phase is not Phase.SETTLED:
        raise NotAllowed(run.id, "skip", "it is not at rest; what is being done or undone cannot be given up")
    for stage in order.skip:
        if steps.get(stage) not in _SKIPPABLE:
            owed = ", ".join(name for name, state in steps.items() if state in _SKIPPABLE) or "none"
            raise NotAllowed(run.id, "skip", f"no undo of a stage {stage!r} is owed; owed are those of: {owed}")
        strands.set_step(run, stage, StepState.SKIPPED, reason=order.reason)
        run.emit("undo.skipped", stage=stage, actor=order.actor, reason=order.reason)


def _turn(run: LockedRun, cause: Cause, order: Order) -> tuple[Nudge, ...]:
    """Bring the run to a halt for ``cause``, from wherever it is."""
    run.change(past_pivot=order.past_pivot or run.facts.past_pivot)
    if run.facts.phase is not Phase.SETTLED:
        return drain(run, cause, error=order.reason)
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
        strands.set_step(run, stage, StepState.RECORDED if recorded else StepState.INTENDED)
    # Against owners and messages from before; all at once, for the later ones open without a person.
    strands.raise_undo_fences(run.connection, run.id)
    nudges = go_backward(run)
    over = undone(strands.steps(run.connection, run.id))
    if over is not None:  # what was left was given up
        end(run, over.status)
    return (*nudges, *(_revive(run, row) for row in _halted(run)))


def _halted(run: LockedRun) -> list[strands.StrandRow]:
    """Undos that had begun when another one's failure put a halt to them."""
    steps = strands.steps(run.connection, run.id)
    return [
        row
        for row in strands.all_of(run.connection, run.id)
        if row.state == StrandState.REST
        and row.direction == Phase.BACKWARD
        and steps.get(row.stage) is StepState.COMPENSATING
    ]


def resume(connection: Connection, order: Order, audit_key: bytes) -> tuple[Nudge, ...]:
    """Let a run that is parked, failed or cancelled go forward again from its last checkpoints."""
    run = _locked(connection, order, audit_key)
    _permit(run, order)
    nudges = _forward(run)
    run.flush()
    return nudges


def _forward(run: LockedRun, but: str | None = None) -> tuple[Nudge, ...]:
    """Set the run going again, and every strand at rest with it, ``but`` the one that is advanced by itself."""
    if run.facts.deadline is not None and run.facts.deadline <= run.clock:
        # Else the next sweep would stop the run again for the very deadline that the person saw pass.
        run.emit("run.deadline_lifted", deadline=run.facts.deadline)
        run.change(deadline=None)
    run.change(
        phase=Phase.FORWARD,
        status=RunStatus.RUNNING,
        cause=None,
        error=None,
        error_stage=None,
        park_reason=None,
        finished_at=None,
    )
    return tuple(_revive(run, row) for row in _at_rest(run) if row.strand != but)


def _at_rest(run: LockedRun) -> list[strands.StrandRow]:
    rows = strands.all_of(run.connection, run.id)
    return [row for row in rows if row.state == StrandState.REST and row.direction == Phase.FORWARD]


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

    Then go on, unless there is another stage that must not be tried before somebody finds out about it.
    """
    run = _locked(connection, order, audit_key)
    row = _doubtful(run, order, stage)
    strands.clear_doubt(run, stage)
    strands.change(connection, run.id, row.strand, gen=row.gen + 1)
    run.emit("stage.settled", stage=stage, done=delta is not None, actor=order.actor)
    if delta is None:
        _not_done(run, stage)
    else:
        _found_done(run, stage, delta)
    left = standing(views.run(connection, run.id)).undecided
    nudges: tuple[Nudge, ...] = ()
    if left:
        _stay(run, row, stage, left[0], done=delta is not None)
    else:
        nudges = _carry_on(run, row, stage, done=delta is not None)
    run.flush()
    return nudges


def _doubtful(run: LockedRun, order: Order, stage: str) -> strands.StrandRow:
    if stage not in run.plan.by_name:
        raise NotAllowed(run.id, order.verb, f"it has no stage {stage!r}; it has: {', '.join(run.plan.by_name)}")
    _permit(run, order, stage)
    row = next((row for row in _at_rest(run) if row.stage == stage), None)
    if row is None or not strands.in_doubt(run.connection, run.id, stage):
        raise NotAllowed(run.id, order.verb, f"the outcome of {stage!r} is not in doubt")
    return row


def _not_done(run: LockedRun, stage: str) -> None:
    planned = run.plan.by_name[stage]
    if planned.undo is not None:
        strands.set_step(run, stage, StepState.VOID)
    if planned.pivot:
        unpass(run, stage)


def _found_done(run: LockedRun, stage: str, delta: str) -> None:
    schema = _newest(run).schema  # people say it as the code of today has it
    strands.checkpoint(run, stage, delta, schema=schema)
    for scope, key, holder, ttl in idempotency_keys.held_by_run(run.connection, run.id):
        if holder == stage:
            idempotency_keys.finish_for_run(
                run.connection, scope, key, run.id, stage, delta, ttl_seconds=ttl, schema=schema
            )
    if run.plan.by_name[stage].undo is not None:
        strands.set_step(run, stage, StepState.RECORDED)


def _newest(run: LockedRun) -> Plan:
    digest = definitions.newest(run.connection, run.facts.pipeline)
    return run.plan if digest is None else definitions.plan_of(run.connection, digest)


def _carry_on(run: LockedRun, row: strands.StrandRow, stage: str, *, done: bool) -> tuple[Nudge, ...]:
    if not done:
        return _forward(run)
    revived = _forward(run, but=row.strand)
    return (*revived, *advance(run, row.strand, stage).nudges)


def _stay(run: LockedRun, row: strands.StrandRow, stage: str, other: str, *, done: bool) -> None:
    """At rest as before, for the sake of the ``other`` stage; what follows a stage that was done rests as well."""
    before = run.facts
    if done:
        run.change(phase=Phase.FORWARD)
        advance(run, row.strand, stage)
        strands.rest_idle(run.connection, run.id)
    run.change(phase=before.phase, status=before.status, error_stage=other)
