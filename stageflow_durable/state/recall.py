"""Finding out whether a commit went through whose answer was lost."""

from __future__ import annotations

from sqlalchemy import Connection, and_, bindparam, select

from stageflow_durable.model.status import AttemptState, Phase
from stageflow_durable.model.work import Work
from stageflow_durable.state import load
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import attempts
from stageflow_durable.transitions.draft import undo_strand
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.fence import is_mine

_ENDED_AT = Prepared(
    select(attempts.c.state, attempts.c.ended_at).where(
        and_(
            attempts.c.run == bindparam("run_id"),
            attempts.c.stage == bindparam("of_stage"),
            attempts.c.item == bindparam("of_item"),
            attempts.c.direction == bindparam("heading"),
            attempts.c.n == bindparam("number"),
        )
    )
)


def recall(connection: Connection, work: Work, owner: str) -> Work | bool:
    """Look for the attempt, which only its owner ends.

    True: the commit went through, and nothing was granted. Work: it did, and this was granted, to ``owner`` (this
    process's id at the commit, which is another than the attempt's when it was declared dead in between). False: it
    did not. The end of an item grants nothing.
    """
    if work.item:
        there = load.lock_item(connection, work.run.id, work.strand, work.item)
        return there is not None and _ended_at(connection, work) is not None
    locked = load.lock(connection, work.run.id)
    if locked is None:
        return False
    facts = load.facts(connection, locked, {Part.STRANDS: load.strands_of(connection, work.run.id)})
    ended_at = None if is_mine(facts, work) else _ended_at(connection, work)
    if ended_at is None:
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


def _ended_at(connection: Connection, work: Work) -> float | None:
    """When its owner ended the attempt; None when it did not: a sweep would have left it unknown."""
    given = {"of_stage": work.stage, "of_item": work.item, "heading": work.direction, "number": work.attempt}
    found = _ENDED_AT.run(connection, run_id=work.run.id, **given).fetchone()
    return None if found is None or found[0] == AttemptState.UNKNOWN else float(found[1])
