"""Stopping a run, and what follows once it is at rest: its end, or the undo of what it did."""

from __future__ import annotations

from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StrandState, WaitingFor
from stageflow_durable.saga.decide import halted, ready_undos, settlement, undone
from stageflow_durable.transitions.change import KeyEnd
from stageflow_durable.transitions.draft import ACTIVE, Draft, undo_strand
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

DEADLINE_PASSED = "the deadline passed"


def stop(
    draft: Draft, cause: Cause, *, error: str | None = None, stage: str | None = None, park: ParkReason | None = None
) -> None:
    """Stop the run: nothing begins any more, and waiting strands come to rest; resolve it if nothing runs.

    The first trigger wins and later ones change nothing, with one exception: a pivot in doubt parks the run, whatever
    stopped it, since only a person can find out whether the point of no return was passed.
    """
    run = draft.run
    if run.phase is Phase.FORWARD:
        draft.change(
            phase=Phase.DRAINING,
            status=RunStatus.STOPPING,
            cause=cause,
            error=error,
            error_stage=stage,
            park_reason=park,
        )
        draft.emit("run.stopping", cause=cause, stage=stage, error=error, park_reason=park)
    elif run.phase is Phase.DRAINING and park is ParkReason.UNKNOWN:
        draft.change(park_reason=park, error=error, error_stage=stage)
    draft.rest_idle()
    draft.rest_items()
    resolve(draft)


def is_busy(draft: Draft) -> bool:
    """Whether an attempt of the run, or of one of its items, is under way."""
    return any(row.state == StrandState.RUNNING for row in draft.strands.values()) or draft.items_run


def resolve(draft: Draft) -> None:
    """Decide how a draining run goes on: undo, park or end. Does nothing while one of its strands runs."""
    run = draft.run
    if run.phase is not Phase.DRAINING or is_busy(draft):
        return
    assert run.cause is not None
    to = settlement(run.cause, run.park_reason, draft.steps, pivot_passed=run.pivot_passed, past_pivot=run.past_pivot)
    if to.phase is Phase.BACKWARD:
        go_backward(draft)
    else:
        end(draft, to.status)


def resolve_or_succeed(draft: Draft) -> None:
    """The same after an attempt has ended: if all stages are done the run has succeeded, unless a person asked for its
    undo.
    """
    if draft.run.cause is not Cause.OPERATOR and len(draft.saved) == len(draft.plan.stages):
        draft.change(cause=None, error=None, error_stage=None)
        end(draft, RunStatus.SUCCEEDED)  # everything was done before the stop could take effect
    else:
        resolve(draft)


def end(draft: Draft, status: RunStatus) -> None:
    """Bring the run to rest with this status: nothing of it is published any more, and its business keys end."""
    draft.rest_idle()
    if status not in (RunStatus.PARKED, RunStatus.SUCCEEDED):  # a success finishes its keys with their results
        _let_keys_go(draft)
    draft.change(phase=Phase.SETTLED, status=status, finished_at=draft.clock)
    run = draft.run
    draft.emit(f"run.{status}", cause=run.cause, stage=run.error_stage, error=run.error, park_reason=run.park_reason)
    draft.ended = True


def _let_keys_go(draft: Draft) -> None:
    """End the business keys of stages that never finished: free if the stage cannot have acted, else taken until they
    expire.
    """
    for key in draft.facts.keys:
        if key.stage not in draft.saved:  # a stage that has just finished ends its key with the result
            draft.end_key(key, KeyEnd.ABANDONED if draft.in_doubt(key.stage) else KeyEnd.RELEASED)


def go_backward(draft: Draft) -> None:
    """Turn the run back: it begins to undo."""
    draft.change(phase=Phase.BACKWARD, status=RunStatus.COMPENSATING, park_reason=None, finished_at=None)
    draft.emit("work.compensation_started", cause=draft.run.cause, error=draft.run.error)
    open_undos(draft)


def open_undos(draft: Draft) -> None:
    """Open a strand for each undo that is next in order and has none; one that is not safe yet waits."""
    there = {row.strand for row in draft.strands.values() if row.state in ACTIVE}
    for stage in ready_undos(draft.plan, draft.steps):
        if undo_strand(stage) not in there:
            _open_undo(draft, stage)


def safe_at(draft: Draft, stage: str) -> float:
    """From when on the stage can be undone safely: no lost process may still act for it, or for a stage after it."""
    return max(draft.acts_until(name) for name in {stage} | draft.plan.descendants[stage])


def undo_waits_for(due: float) -> WaitingFor:
    """What an undo that cannot begin before ``due`` waits for: that moment, or the confirmed end of a worker."""
    return WaitingFor.WORKER if due >= UNTIL_CONFIRMED else WaitingFor.TIME


def _open_undo(draft: Draft, stage: str) -> None:
    due = safe_at(draft, stage)
    waits = due > draft.clock
    draft.open_strand(
        undo_strand(stage),
        direction=Phase.BACKWARD,
        stage=stage,
        queue=draft.queue_of(stage),
        state=StrandState.WAITING if waits else StrandState.READY,
        waiting_for=undo_waits_for(due) if waits else None,
        wake_at=due if waits else None,
        published_at=None if waits else draft.clock,
    )
    if not waits:
        draft.publish(undo_strand(stage))


def after_undo(draft: Draft) -> None:
    """After an undo was done or has failed: open the next ones, or end the run."""
    halt = halted(draft.plan.on_compensation_failure, draft.steps)
    if halt:
        draft.rest_items()
    if halt and is_busy(draft):
        draft.rest_idle()  # running undos finish, waiting ones rest
        return
    over = undone(draft.steps, halt=halt)
    if over is None:
        open_undos(draft)
    else:
        end(draft, over.status)


def withdraw_pivot(draft: Draft, pivot: str) -> None:
    """The pivot was not passed after all: the run can turn back again, unless it passed another one."""
    others = any(stage.pivot and stage.name != pivot and stage.name in draft.saved for stage in draft.plan.stages)
    draft.change(pivot_passed=others)


def set_activity(draft: Draft) -> None:
    """Set the status of a run that goes forward: running or waiting. While a stage has items to carry out it runs."""
    if draft.item:
        return
    if draft.run.phase is Phase.FORWARD:
        busy = any(
            row.state in (StrandState.RUNNING, StrandState.READY) or row.waiting_for == WaitingFor.ITEMS
            for row in draft.strands.values()
        )
        draft.change(status=RunStatus.RUNNING if busy else RunStatus.WAITING)
