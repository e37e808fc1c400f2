"""Dead owners: taking their work, and letting undos begin that waited until the end of one was confirmed."""

from __future__ import annotations

from typing import NamedTuple

from stageflow_durable.model.status import AttemptState, Cause, ParkReason, Phase, StepState, StrandState
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import after_undo, safe_at, stop, undo_waits_for
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner, OwnerRow, StrandRow


def take(facts: Facts, strand: str, gen: int, *, max_lost: int) -> Change | None:
    """Take a strand from its dead owner: the fence rises, and the attempt's outcome is unknown. None if somebody else
    took it, or its owner is not dead.

    ``max_lost``: the number of lost attempts at one stage that parks the run.
    """
    row = held_by_dead(facts, strand, gen)
    if row is None:
        return None
    draft = Draft(facts)
    why = lost(draft, row, facts.owners[row.owner or ""])
    (_redo_undo if row.direction == Phase.BACKWARD else _redo)(draft, draft.strand(strand), why, max_lost)
    return draft.done()


def held_by_dead(facts: Facts, strand: str, gen: int) -> StrandRow | None:
    """The strand, if it is still as the scan saw it and its owner is dead."""
    row = facts.strands.get(strand)
    if row is None or row.gen != gen or row.state != StrandState.RUNNING:
        return None
    owner = facts.owners.get(row.owner or "")
    return None if owner is None or owner.dead_at is None else row


def lost(draft: Draft, row: StrandRow, owner: OwnerRow) -> str:
    """End the attempt of a dead owner, and raise the fence. Returns what happened, for people."""
    why = f"{'process' if owner.confirmed else 'lease'} of {owner.host} (pid {owner.pid}) was lost"
    draft.end_attempt(
        row, AttemptState.UNKNOWN, doubt=True, kill_by=_acts_until(draft, row, owner.confirmed), error=why
    )
    draft.set_strand(row.strand, state=StrandState.REST, owner=None, gen=row.gen + 1, lost=row.lost + 1, progress=None)
    undo = row.direction == Phase.BACKWARD
    draft.emit("stage.lost", stage=row.stage, attempt=row.attempt, owner=row.owner, undo=undo, error=why)
    return why


def _acts_until(draft: Draft, row: StrandRow, confirmed: bool) -> float:
    """Until when the body of the lost attempt may still act."""
    if confirmed:
        return draft.clock
    return UNTIL_CONFIRMED if row.kill_by is None else row.kill_by


def _redo(draft: Draft, row: StrandRow, why: str, max_lost: int) -> None:
    found = verdict(draft, row, why, max_lost)
    if found is None:
        ready_again(draft, row)
    else:
        stop(draft, Cause.FAILED, error=found.error, stage=row.stage, park=found.park)


class Verdict(NamedTuple):
    """Why a lost stage does not begin again, and for what the run is parked."""

    error: str
    park: ParkReason | None


def verdict(draft: Draft, row: StrandRow, why: str, max_lost: int) -> Verdict | None:
    """Why the run stops because the stage was lost; None if the stage begins again."""
    planned = draft.plan.by_name[row.stage]
    unknown = f"{row.stage}: outcome unknown: {why}"
    doubtful_pivot = ParkReason.UNKNOWN if planned.pivot else None
    if draft.run.phase is not Phase.FORWARD:
        return Verdict(unknown, doubtful_pivot)
    if planned.on_unknown == "park":
        return Verdict(unknown, ParkReason.UNKNOWN)
    if planned.on_unknown == "compensate":
        return Verdict(unknown, doubtful_pivot)
    if row.lost >= max_lost:
        return Verdict(f"{row.stage}: {row.lost} processes were lost in it; the last: {why}", ParkReason.POISON)
    return None


def _redo_undo(draft: Draft, row: StrandRow, why: str, max_lost: int) -> None:
    if row.lost < max_lost:
        ready_again(draft, row)
    else:
        give_up_undo(draft, row, why)
        after_undo(draft)


def give_up_undo(draft: Draft, row: StrandRow, why: str) -> None:
    """An undo in which too many processes were lost has failed."""
    draft.set_strand(row.strand, state=StrandState.DONE)
    draft.set_step(row.stage, StepState.COMPENSATION_FAILED, error=f"{row.lost} processes were lost in it; {why}")
    draft.emit("work.compensation_failed", stage=row.stage, attempt=row.attempt, error=why)


def ready_again(draft: Draft, row: StrandRow) -> None:
    """Offer the strand again."""
    draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, nudges=0, **AWAKE)
    draft.publish(row.strand)


def release(facts: Facts, ended: EndedOwner) -> Change | None:
    """Let those undos of a run begin that waited for this owner only, and record its end in the history. None if
    nothing of the run waits for it.
    """
    draft = Draft(facts)
    if not draft.end_lost(ended.id):
        return None
    _record_end(draft, ended)
    for row in [row for row in draft.strands.values() if waits_for_an_end(row)]:
        _release(draft, row)
    return draft.done()


def waits_for_an_end(row: StrandRow) -> bool:
    """Whether an undo waits until the end of an owner is confirmed."""
    waits = row.state == StrandState.WAITING and row.direction == Phase.BACKWARD
    return waits and (row.wake_at or 0.0) >= UNTIL_CONFIRMED


def _record_end(draft: Draft, ended: EndedOwner) -> None:
    told = {"owner": ended.id, "host": ended.host, "pid": ended.pid}
    if ended.reason is None:
        draft.emit("worker.ended", confirmed_by=ended.confirmed_by, **told)
        return
    draft.change(op_version=draft.run.op_version + 1)
    draft.emit("operator.confirm-dead", actor=ended.confirmed_by, reason=ended.reason, **told)


def _release(draft: Draft, row: StrandRow) -> None:
    due = safe_at(draft, row.stage)
    if due > draft.clock:
        draft.wait(row.strand, undo_waits_for(due), due)
    else:
        draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, **AWAKE)
        draft.publish(row.strand)
