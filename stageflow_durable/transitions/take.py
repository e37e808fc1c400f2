"""Taking work from a dead owner."""

from __future__ import annotations

from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, StepState, StrandState
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import after_undo, stop
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, StrandRow


def take(facts: Facts, strand: str, gen: int, *, max_lost: int) -> Change | None:
    """Take a strand from its dead owner: the fence rises, and the attempt's outcome is unknown. None if somebody else
    took it, or its owner is not dead.

    ``max_lost``: the number of lost attempts at one stage that parks the run.
    """
    row = facts.strands.get(strand)
    if row is None or row.gen != gen or row.state != StrandState.RUNNING:
        return None
    owner = facts.owners.get(row.owner or "")
    if owner is None or owner.dead_at is None:
        return None
    draft = Draft(facts)
    why = f"{'process' if owner.confirmed else 'lease'} of {owner.host} (pid {owner.pid}) was lost"
    draft.end_attempt(
        row, AttemptState.UNKNOWN, doubt=True, kill_by=_acts_until(draft, row, owner.confirmed), error=why
    )
    draft.set_strand(strand, state=StrandState.REST, owner=None, gen=row.gen + 1, lost=row.lost + 1, progress=None)
    undo = row.direction == Phase.BACKWARD
    draft.emit("stage.lost", stage=row.stage, attempt=row.attempt, owner=row.owner, undo=undo, error=why)
    (_redo_undo if undo else _redo)(draft, draft.strand(strand), why, max_lost)
    return draft.done()


def _acts_until(draft: Draft, row: StrandRow, confirmed: bool) -> float:
    """Until when the body of the lost attempt may still act."""
    if confirmed:
        return draft.clock
    return UNTIL_CONFIRMED if row.kill_by is None else row.kill_by


def _redo(draft: Draft, row: StrandRow, why: str, max_lost: int) -> None:
    planned = draft.plan.by_name[row.stage]
    unknown = f"{row.stage}: outcome unknown: {why}"
    doubtful_pivot = ParkReason.UNKNOWN if planned.pivot else None
    if draft.run.phase is not Phase.FORWARD:
        stop(draft, Cause.FAILED, error=unknown, stage=row.stage, park=doubtful_pivot)
    elif planned.on_unknown == "park":
        stop(draft, Cause.FAILED, error=unknown, stage=row.stage, park=ParkReason.UNKNOWN)
    elif planned.on_unknown == "compensate":
        stop(draft, Cause.FAILED, error=unknown, stage=row.stage, park=doubtful_pivot)
    elif row.lost >= max_lost:
        error = f"{row.stage}: {row.lost} processes were lost in it; the last: {why}"
        stop(draft, Cause.FAILED, error=error, stage=row.stage, park=ParkReason.POISON)
    else:
        _ready_again(draft, row)


def _redo_undo(draft: Draft, row: StrandRow, why: str, max_lost: int) -> None:
    if row.lost < max_lost:
        _ready_again(draft, row)
        return
    draft.set_strand(row.strand, state=StrandState.DONE)
    draft.set_step(row.stage, StepState.COMPENSATION_FAILED, error=f"{row.lost} processes were lost in it; {why}")
    draft.emit("work.compensation_failed", stage=row.stage, attempt=row.attempt, error=why)
    after_undo(draft)


def _ready_again(draft: Draft, row: StrandRow) -> None:
    draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, nudges=0, **AWAKE)
    draft.publish(row.strand)
