"""Bringing a run to rest, and from there to its end or on its way back. Runs under the run's lock, in its
transaction.
"""

from __future__ import annotations

from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StrandState
from stageflow_durable.model.work import UNDO_PREFIX, Nudge
from stageflow_durable.saga.plan import ready_undos
from stageflow_durable.saga.settle import halted, settlement, undone
from stageflow_durable.state import idempotency_keys, strands
from stageflow_durable.state.locked import LockedRun

DEADLINE_PASSED = "the deadline passed"

_ACTIVE = (StrandState.READY, StrandState.RUNNING, StrandState.WAITING)


def drain(
    run: LockedRun, cause: Cause, *, error: str | None = None, stage: str | None = None, park: ParkReason | None = None
) -> tuple[Nudge, ...]:
    """Stop the run: nothing begins any more, what waits comes to rest; settle when nothing runs.

    The first trigger wins and a later one is a no-op, except a pivot in doubt: whatever else was asked for, only a
    person can say whether the point of no return was passed.
    """
    if run.facts.phase is Phase.FORWARD:
        run.change(
            phase=Phase.DRAINING,
            status=RunStatus.STOPPING,
            cause=cause,
            error=error,
            error_stage=stage,
            park_reason=park,
        )
        run.emit("run.stopping", cause=cause, stage=stage, error=error, park_reason=park)
    elif run.facts.phase is Phase.DRAINING and park is ParkReason.UNKNOWN:
        run.change(park_reason=park, error=error, error_stage=stage)
    strands.rest_idle(run.connection, run.id)
    return settle(run)


def settle(run: LockedRun) -> tuple[Nudge, ...]:
    """Settle a draining run unless one of its strands still runs. Returns the undos to publish."""
    if run.facts.phase is not Phase.DRAINING:
        return ()
    if any(row.state == StrandState.RUNNING for row in strands.all_of(run.connection, run.id)):
        return ()
    facts = run.facts
    steps = strands.steps(run.connection, run.id)
    assert facts.cause is not None
    to = settlement(facts.cause, facts.park_reason, steps, pivot_passed=facts.pivot_passed, past_pivot=facts.past_pivot)
    if to.phase is Phase.BACKWARD:
        return go_backward(run)
    end(run, to.status)
    return ()


def end(run: LockedRun, status: RunStatus) -> None:
    """The run is at rest: nothing of it is published any more, and the keys it held are let go."""
    strands.rest_idle(run.connection, run.id)
    if status not in (RunStatus.PARKED, RunStatus.SUCCEEDED):  # a success finishes its keys with their results
        _let_keys_go(run)
    run.change(phase=Phase.SETTLED, status=status, finished_at=run.clock)
    run.emit(
        f"run.{status}",
        cause=run.facts.cause,
        stage=run.facts.error_stage,
        error=run.facts.error,
        park_reason=run.facts.park_reason,
    )


def _let_keys_go(run: LockedRun) -> None:
    """Business keys of stages that never finished: free where nothing can have happened, else held for their time."""
    saved = strands.finished(run.connection, run.id)
    for scope, key, stage, ttl in idempotency_keys.held_by_run(run.connection, run.id):
        if stage in saved:
            continue  # it was the last to come to rest: its key ends with its result, later in this transaction
        if strands.in_doubt(run.connection, run.id, stage):
            idempotency_keys.abandon_for_run(run.connection, scope, key, run.id, stage, ttl_seconds=ttl)
        else:
            idempotency_keys.release_for_run(run.connection, scope, key, run.id, stage)


def go_backward(run: LockedRun) -> tuple[Nudge, ...]:
    """Begin to undo: strands for every undo that may begin now."""
    run.change(phase=Phase.BACKWARD, status=RunStatus.COMPENSATING, park_reason=None, finished_at=None)
    run.emit("work.compensation_started", cause=run.facts.cause, error=run.facts.error)
    return open_undos(run)


def open_undos(run: LockedRun) -> tuple[Nudge, ...]:
    """Add a strand for each undo that has become ready and has none; a fresh one is published, one not yet safe
    waits.
    """
    there = {row.strand for row in strands.all_of(run.connection, run.id) if row.state in _ACTIVE}
    ready = ready_undos(run.plan, strands.steps(run.connection, run.id))
    return tuple(nudge for stage in ready if UNDO_PREFIX + stage not in there for nudge in _open_undo(run, stage))


def _open_undo(run: LockedRun, stage: str) -> tuple[Nudge, ...]:
    # What a paused process may still send has to be over before its effect is undone.
    later = {stage} | run.plan.descendants[stage]
    safe_at = max(strands.acts_until(run.connection, run.id, name) for name in later)
    waits = safe_at > run.clock
    queue = run.plan.by_name[stage].queue or run.facts.queue
    strands.add(
        run.connection,
        run=run.id,
        strand=UNDO_PREFIX + stage,
        direction=Phase.BACKWARD,
        stage=stage,
        queue=queue,
        state=StrandState.WAITING if waits else StrandState.READY,
        wake_at=safe_at if waits else None,
        published_at=None if waits else run.clock,
    )
    row = strands.one(run.connection, run.id, UNDO_PREFIX + stage)
    assert row is not None
    return () if waits else (nudge_of(run, row),)


def unpass(run: LockedRun, pivot: str) -> None:
    """A pivot turned out not to have happened: the run can turn back again, unless another one was passed before."""
    done = strands.finished(run.connection, run.id)
    others = any(stage.pivot and stage.name != pivot and stage.name in done for stage in run.plan.stages)
    run.change(pivot_passed=others)


def undo_ended(run: LockedRun) -> tuple[tuple[Nudge, ...], bool]:
    """After an undo reached its end: the next undos to publish, and whether the run is over."""
    steps = strands.steps(run.connection, run.id)
    halt = halted(run.plan.on_compensation_failure, steps)
    if halt and any(row.state == StrandState.RUNNING for row in strands.all_of(run.connection, run.id)):
        strands.rest_idle(run.connection, run.id)  # one that runs comes to its end, one that waits rests
        return (), False
    over = undone(steps, halt=halt)
    if over is None:
        return open_undos(run), False
    end(run, over.status)
    return (), True


def nudge_of(run: LockedRun, row: strands.StrandRow) -> Nudge:
    """The message for a strand as it stands."""
    links = 1 if row.direction == Phase.BACKWARD else run.plan.remaining_on_strand(row.stage)
    return Nudge(run.id, row.strand, row.gen, row.queue, mark=run.facts.seq, links=links, priority=run.facts.priority)


def activity(run: LockedRun) -> None:
    """Set the status that a person sees of a run that goes forward."""
    if run.facts.phase is not Phase.FORWARD:
        return
    states = {row.state for row in strands.all_of(run.connection, run.id)}
    busy = states & {StrandState.RUNNING, StrandState.READY}
    run.change(status=RunStatus.RUNNING if busy else RunStatus.WAITING)
