"""Undos that waited until the end of an owner was confirmed may begin."""

from __future__ import annotations

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import safe_at, undo_waits_for
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner, StrandRow


def release(facts: Facts, ended: EndedOwner) -> Change | None:
    """Let those undos of a run begin that waited for this owner only, and record its end in the history. None if
    nothing of the run waits for it.
    """
    draft = Draft(facts)
    if not draft.end_lost(ended.id):
        return None
    _tell(draft, ended)
    for row in [row for row in draft.strands.values() if waits_for_an_end(row)]:
        _release(draft, row)
    return draft.done()


def waits_for_an_end(row: StrandRow) -> bool:
    """Whether an undo waits until the end of an owner is confirmed."""
    waits = row.state == StrandState.WAITING and row.direction == Phase.BACKWARD
    return waits and (row.wake_at or 0.0) >= UNTIL_CONFIRMED


def _tell(draft: Draft, ended: EndedOwner) -> None:
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
