"""Whether a run that began under one definition can go on under another."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, select

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.load import Locked, facts, facts_of, saved_of, schemas_of, steps_of, strands_of
from stageflow_durable.state.tables import runs
from stageflow_durable.store.views import summary_of
from stageflow_durable.transitions import start
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Part

_GONE = {*AT_REST} - {RunStatus.PARKED, RunStatus.COMPENSATION_FAILED}
UNFINISHED = tuple(status for status in RunStatus if status not in _GONE)
"""Statuses of runs that go on, or that a person may let go on."""


def why_not(connection: Connection, run: RunFacts, new: Plan) -> str | None:
    """Why the run cannot go forward under ``new``; None: it can."""
    parts = {
        Part.STRANDS: strands_of(connection, run.id),
        Part.SAVED: saved_of(connection, run.id),
        Part.SCHEMAS: schemas_of(connection, run.id),
    }
    return start.why_not(Draft(facts(connection, Locked(run, run.updated_at), parts)), new)


def misfits(connection: Connection, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
    """Unfinished runs that these definitions would park, or whose undo they have no more, and why; oldest first."""
    by_name = {plan.pipeline: plan for plan in plans}
    unfinished = runs.c.status.in_([constant(status) for status in UNFINISHED])
    digests = [plan.digest for plan in plans]
    other = and_(runs.c.pipeline.in_(by_name), runs.c.definition.not_in(digests), unfinished)
    found: list[tuple[RunSummary, str]] = []
    for row in connection.execute(select(runs).where(other).order_by(runs.c.created_at)).all():
        run = facts_of(row)
        new = by_name[run.pipeline]
        forward = run.phase in (Phase.FORWARD, Phase.SETTLED) and run.status is not RunStatus.COMPENSATION_FAILED
        why = (why_not(connection, run, new) if forward else None) or _undo_gone(connection, run.id, new)
        if why is not None:
            found.append((summary_of(run), why))
    return found


def _undo_gone(connection: Connection, run_id: str, new: Plan) -> str | None:
    due = OPEN_STEPS | {StepState.COMPENSATION_FAILED}
    owed = [stage for stage, state in steps_of(connection, run_id).items() if state in due]
    gone = [stage for stage in owed if stage not in new.by_name or new.by_name[stage].undo is None]
    return f"the undo of {', '.join(gone)} is owed, and gone" if gone else None
