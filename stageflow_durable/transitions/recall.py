"""Finding out whether a commit went through whose answer was lost."""

from __future__ import annotations

from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Work
from stageflow_durable.transitions.draft import undo_strand
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.fence import is_mine


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
        facts.run,
        plan,
        row.strand,
        Phase(row.direction),
        row.stage,
        row.gen,
        row.owner,
        row.attempt,
        row.tries,
        row.lost,
        row.delay,
        row.first_at or ended_at,
        ended_at,
        row.queue,
        facts.run.seq,
        facts.run.head,
    )
