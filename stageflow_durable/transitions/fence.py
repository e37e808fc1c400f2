"""What all ends of an attempt share: checking the fence, and giving up the stage's business key."""

from __future__ import annotations

from stageflow_durable.model.status import Phase, StepState, StrandState
from stageflow_durable.model.work import Work
from stageflow_durable.transitions.change import KeyEnd
from stageflow_durable.transitions.draft import Draft, undo_strand
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import withdraw_pivot
from stageflow_durable.transitions.rows import HeldKey, StrandRow


def is_mine(facts: Facts, work: Work) -> bool:
    """Whether this attempt still holds its strand.

    Fenced against a zombie whose strand was taken (``gen``, ``owner``), and against a late answer of an attempt that is
    over (``stage``, ``attempt``).
    """
    row = facts.strands.get(work.strand)
    return row is not None and holds(work, row)


def holds(work: Work, row: StrandRow) -> bool:
    """The same, of the strand's row."""
    fence = (work.gen, work.owner, work.stage, work.attempt, StrandState.RUNNING)
    return (row.gen, row.owner, row.stage, row.attempt, row.state) == fence


def drafted(facts: Facts, work: Work) -> Draft | None:
    """A draft for the end of an attempt; None if it no longer holds its strand, so that it may write nothing."""
    return Draft(facts) if is_mine(facts, work) else None


def void_step(draft: Draft, stage: str) -> None:
    """The stage cannot have had an effect: no undo is owed, and a pivot was not passed. Does nothing if an attempt is
    in doubt, or a call of it can still be undone: whatever the body says, that was made.
    """
    if draft.in_doubt(stage) or draft.owes_calls(stage):
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


def recalled(facts: Facts, work: Work, owner: str, ended_at: float | None) -> Work | bool:
    """What became of the attempt ``work``, which only its owner ends. ``ended_at``: when the owner ended it, in seconds
    since the epoch; None: it did not.

    True: the commit went through, and nothing was granted. Work: it did, and this was granted, to ``owner`` (this
    process's id at the commit, which is another than the attempt's when it was declared dead in between). False: it
    did not.
    """
    if ended_at is None or is_mine(facts, work):
        return False
    plan = facts.plan
    after = {work.strand, *plan.successors[work.stage], *map(undo_strand, plan.ancestors[work.stage])}
    held = [row for row in facts.strands.values() if row.strand in after and row.owner in (work.owner, owner)]
    # A grant begins in the transaction, and at the time, at which the attempt before it ended.
    row = next((row for row in held if row.began_at == ended_at), None)
    if row is None or row.owner is None:
        return True
    return Work(
        run=facts.run,
        plan=plan,
        strand=row.strand,
        direction=Phase(row.direction),
        stage=row.stage,
        gen=row.gen,
        owner=row.owner,
        attempt=row.attempt,
        tries=row.tries,
        lost=row.lost,
        delay=row.delay,
        first_at=row.first_at or ended_at,
        began_at=ended_at,
        queue=row.queue,
        seq=facts.run.seq,
        head=facts.run.head,
    )
