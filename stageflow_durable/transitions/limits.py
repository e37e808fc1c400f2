"""Limits: whether a strand has the slots that its stage needs to begin. Meanwhile it waits: see ``slots``."""

from __future__ import annotations

from stageflow_durable.model.limits import PlannedLimit, PoolId, Wanted
from stageflow_durable.model.status import Phase, WaitingFor
from stageflow_durable.model.work import Claimant
from stageflow_durable.transitions import slots
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.resolve import set_activity
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, StrandRow


def wanted(draft: Draft, row: StrandRow, claimant: Claimant) -> tuple[Wanted, ...] | None:
    """The slots that the strand needs to begin its stage; None: functions of the application have to tell the keys."""
    limits = draft.plan.by_name[row.stage].limits
    if not limits or row.direction != Phase.FORWARD or claimant.unlimited:
        return ()
    found = [(limit, _key(limit, claimant)) for limit in limits]
    if any(key is None for _limit, key in found):
        return None
    return tuple(Wanted(PoolId(limit.name, key or ""), limit.limit, limit.rate) for limit, key in found)


def _key(limit: PlannedLimit, claimant: Claimant) -> str | None:
    return "" if not limit.keyed else None if claimant.keys is None else claimant.keys.get(limit.name)


def admitted(draft: Draft, row: StrandRow, needs: tuple[Wanted, ...], claimant: Claimant) -> bool:
    """Take all the slots, or none of them and let the strand wait. True if it may begin."""
    missing = slots.of(draft, needs).ask(row, needs, claimant.owner)
    if not missing:
        return True
    # ``nudges`` is reset: a waiting strand with nudges > 0 counts as handed back, and any worker that joins wakes it.
    draft.wait(row.strand, WaitingFor.LIMIT, UNTIL_CONFIRMED, owner=None, nudges=0)
    behind = [one.pool.text for one in missing]
    draft.emit(
        "stage.waiting", stage=row.stage, strand=row.strand, waiting_for=WaitingFor.LIMIT, until=None, behind=behind
    )
    set_activity(draft)
    return False


def waits_for_slots(row: StrandRow) -> bool:
    """Whether the strand waits for slots, so that no message begins it before it was woken."""
    return row.waiting_for == WaitingFor.LIMIT and (row.wake_at or 0.0) >= UNTIL_CONFIRMED
