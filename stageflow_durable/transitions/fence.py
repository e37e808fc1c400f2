"""What all ends of an attempt share: checking the fence, and giving up the stage's business key."""

from __future__ import annotations

from stageflow_durable.model.status import StepState, StrandState
from stageflow_durable.model.work import Work
from stageflow_durable.transitions.change import KeyEnd
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import withdraw_pivot
from stageflow_durable.transitions.rows import HeldKey


def is_mine(facts: Facts, work: Work) -> bool:
    """Whether this attempt still holds its strand.

    Fenced against a zombie whose strand was taken (``gen``, ``owner``), and against a late answer of an attempt that is
    over (``stage``, ``attempt``).
    """
    row = facts.strands.get(work.strand)
    fence = (work.gen, work.owner, work.stage, work.attempt, StrandState.RUNNING)
    return row is not None and (row.gen, row.owner, row.stage, row.attempt, row.state) == fence


def drafted(facts: Facts, work: Work) -> Draft | None:
    """A draft for the end of an attempt; None if it no longer holds its strand, so that it may write nothing."""
    return Draft(facts) if is_mine(facts, work) else None


def void_step(draft: Draft, stage: str) -> None:
    """The stage cannot have had an effect: no undo is owed, and a pivot was not passed. Does nothing if an attempt is
    in doubt.
    """
    if draft.in_doubt(stage):
        return
    planned = draft.plan.by_name[stage]
    if planned.undo is not None:
        draft.set_step(stage, StepState.VOID)
    if planned.pivot:
        withdraw_pivot(draft, stage)


def let_key_go(draft: Draft, key: HeldKey, *, doubt: bool) -> None:
    """The stage did not finish: its key becomes free if it cannot have acted, else it stays taken until it expires."""
    draft.end_key(key, KeyEnd.ABANDONED if doubt or draft.in_doubt(key.stage) else KeyEnd.RELEASED)


def end_keys(draft: Draft, stage: str, *, but: HeldKey) -> None:
    """End the other keys that earlier attempts of ``stage`` claimed."""
    for key in draft.facts.keys:
        if key.stage == stage and key[:3] != but[:3]:
            let_key_go(draft, key, doubt=False)
