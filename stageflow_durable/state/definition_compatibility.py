"""Which runs could not go on under other definitions."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, select

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.run import RunSummary
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.load import Locked, facts, facts_of, part
from stageflow_durable.state.tables import runs
from stageflow_durable.store.views import summary_of
from stageflow_durable.transitions.compatibility import UNFINISHED, misfit
from stageflow_durable.transitions.facts import Part

_PARTS = (Part.STRANDS, Part.SAVED, Part.SCHEMAS, Part.STEPS)


def misfits(connection: Connection, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
    """Unfinished runs that these definitions would park, or whose undo they have no more, and why; oldest first."""
    by_name = {plan.pipeline: plan for plan in plans}
    unfinished = runs.c.status.in_([constant(status) for status in UNFINISHED])
    digests = [plan.digest for plan in plans]
    other = and_(runs.c.pipeline.in_(by_name), runs.c.definition.not_in(digests), unfinished)
    found: list[tuple[RunSummary, str]] = []
    for row in connection.execute(select(runs).where(other).order_by(runs.c.created_at)).all():
        run = facts_of(row)
        parts = {name: part(connection, run, name, "") for name in _PARTS}
        why = misfit(facts(connection, Locked(run, run.updated_at), parts), by_name[run.pipeline])
        if why is not None:
            found.append((summary_of(run), why))
    return found
