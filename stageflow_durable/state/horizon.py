"""When there will be something to do: the next moment at which a sweep would find work."""

from __future__ import annotations

from sqlalchemy import Connection, and_, case, func, literal, select, true, union_all

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.recovery import MORE
from stageflow_durable.state.tables import owners, runs, slots, strands
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED
from stageflow_durable.transitions.slots import ANSWER_SECONDS


def next_due(connection: Connection, *, patience: float | None) -> float | None:
    """Seconds since the epoch of the next due strand, deadline, lease that may run out, or nudge that may count as
    lost; None: nothing is left to do. ``patience``: seconds after which an unanswered nudge counts as lost; None: none
    does.
    """
    # Not those that wait for a confirmation: no time brings that about.
    timed = and_(strands.c.state == constant(StrandState.WAITING), strands.c.wake_at < UNTIL_CONFIRMED)
    waiting = select(func.min(strands.c.wake_at)).where(timed)
    # Said although min() passes NULLs over: for the partial index.
    there = runs.c.deadline.is_not(None)
    bound = and_(runs.c.phase == constant(Phase.FORWARD), runs.c.pivot_passed.is_(False), there)
    late = select(func.min(runs.c.deadline)).where(bound)
    # A lease that ran out is due now; one of an owner who is known to be dead was due before.
    until = case((owners.c.dead_at.is_(None), owners.c.expires_at), else_=owners.c.dead_at)
    held = select(func.min(until)).select_from(strands.join(owners, owners.c.id == strands.c.owner))
    held = held.where(strands.c.state == constant(StrandState.RUNNING))
    sent = func.coalesce(strands.c.published_at, 0.0) + literal(patience or 0.0) * MORE
    counts = strands.c.published_at.is_(None) if patience is None else true()
    lost = select(func.min(sent)).where(and_(strands.c.state == constant(StrandState.READY), counts))
    over = select(func.min(slots.c.until)).where(slots.c.until < UNTIL_CONFIRMED)
    answer = case((slots.c.offered_at <= now(), slots.c.offered_at + ANSWER_SECONDS), else_=slots.c.offered_at)
    unanswered = select(func.min(answer)).where(slots.c.offered_at.is_not(None))
    moments = union_all(waiting, late, held, lost, over, unanswered).subquery("moments")
    moment = connection.execute(select(func.min(moments.c[0]))).scalar_one_or_none()
    return None if moment is None else float(moment)
