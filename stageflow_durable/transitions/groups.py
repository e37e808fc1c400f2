"""Items as their run sees them: groups that count. What happens to one item is in ``items``.

The items of a stage are divided among groups, at most :data:`MOST_GROUPS`. Whoever changes an item holds the lock of
its group, and counts there what it did; nobody counts rows, and items of different groups do not wait for each other.
Whoever stops, resumes or undoes the run locks all of its groups, so an item cannot begin meanwhile.
"""

from __future__ import annotations

from stageflow_durable.model.status import Phase, StepState, StrandState, WaitingFor
from stageflow_durable.transitions.change import ReviveItems, UndoItems
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.resolve import after_undo
from stageflow_durable.transitions.rows import GroupRow, StrandRow

MOST_GROUPS = 64
"""More would make a stop slower: it locks each."""

ITEMS_A_GROUP = 16
"""Fewer would let the end of every few items take the run's lock: the last of a group does."""


def count_of_groups(items: int) -> int:
    """Among how many groups so many items are divided."""
    return max(1, min(MOST_GROUPS, -(-items // ITEMS_A_GROUP)))


def group_of(item: int, first: int, groups: int) -> int:
    """The group of an item of a stage whose ``first`` item has that number: neighbours are in different ones."""
    return (item - first) % groups


def groups_of(draft: Draft, strand: str) -> list[GroupRow]:
    """The groups of a strand's items: of a stage, or of its undo."""
    return [group for (of, _number), group in draft.groups.items() if of == strand]


def wait_for_items(draft: Draft, row: StrandRow) -> bool:
    """Let a strand at rest wait for its stage's items again, and revive them. False if it has none to wait for."""
    if row.direction != Phase.FORWARD or not groups_of(draft, row.stage) or row.stage in draft.saved:
        return False
    draft.wait(row.strand, WaitingFor.ITEMS, None)
    draft.do(ReviveItems(row.stage))
    return True


def open_undos_of_items(draft: Draft, row: StrandRow) -> bool:
    """Where a stage with items is to be undone, open the undo of each instead. False if the stage has none."""
    if row.direction != Phase.BACKWARD or not groups_of(draft, row.stage):
        return False
    stage, began = row.stage, draft.steps[row.stage] is StepState.COMPENSATING
    owed = {grp: count for (of, grp), count in draft.facts.owed.items() if of == stage}
    if not began:
        outcome = "ok" if draft.steps[stage] is StepState.RECORDED else "unknown"
        draft.set_step(stage, StepState.COMPENSATING, outcome=outcome)
    if owed:
        draft.do(UndoItems(stage, draft.queue_of(stage), owed, again=bool(groups_of(draft, row.strand))))
        draft.wait(row.strand, WaitingFor.ITEMS, None, nudges=0)
        draft.emit("undo.opened", stage=stage, items=sum(owed.values()))
    elif began:
        join_undos(draft, stage, row.strand, failed=0)
    else:  # a step is undone in a transaction after the one in which its undo began
        draft.set_strand(row.strand, state=StrandState.READY, published_at=draft.clock, nudges=0, **AWAKE)
        draft.emit("undo.opened", stage=stage, items=0)
        draft.publish(row.strand)
    return True


def join_undos(draft: Draft, stage: str, strand: str, *, failed: int) -> None:
    """The undo of each item has ended: so has that of the stage."""
    error = f"the undo of {failed} of its items failed" if failed else None
    draft.set_strand(strand, state=StrandState.DONE, **AWAKE)
    draft.set_step(stage, StepState.COMPENSATION_FAILED if failed else StepState.COMPENSATED, error=error)
    draft.emit("undo.joined", stage=stage, failed=failed)
    after_undo(draft)
