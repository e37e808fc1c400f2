"""Whether a run that began under one definition can go on under another."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, and_, bindparam, select, union

from stageflow_durable.model.plan import Plan, mismatch
from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, OPEN_STEPS, Phase, RunStatus, StepState, StrandState
from stageflow_durable.state import strands
from stageflow_durable.state.definitions import plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.locked import facts_of
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import checkpoints, runs
from stageflow_durable.state.views import summary_of

_GONE = {*AT_REST} - {RunStatus.PARKED, RunStatus.COMPENSATION_FAILED}
UNFINISHED = tuple(status for status in RunStatus if status not in _GONE)
"""Statuses of runs that go on, or that a person may let go on."""

_SCHEMAS = Prepared(
    union(
        select(runs.c.input_schema).where(runs.c.id == bindparam("run_id")),
        select(checkpoints.c.saved_schema).where(
            and_(checkpoints.c.run == bindparam("run_id"), checkpoints.c.skipped.is_(False))
        ),
    )
)


def unreadable(connection: Connection, run_id: str, new: Plan) -> str | None:
    """Why ``new`` cannot read what the run saved; None: it can."""
    saved = set(_SCHEMAS.column(connection, run_id=run_id))
    wrong = sorted(schema for schema in saved if not new.reads <= schema <= new.schema)
    if not wrong:
        return None
    return f"its outputs have schema {wrong[0]}, this definition reads {new.reads} to {new.schema}"


def why_not(connection: Connection, run_id: str, old: Plan, new: Plan) -> str | None:
    """Why the run cannot go forward under ``new``; None: it can."""
    cannot_read = unreadable(connection, run_id, new)
    if cannot_read is not None:
        return cannot_read
    rows = strands.all_of(connection, run_id)
    active = frozenset(row.stage for row in rows if row.state != StrandState.DONE and row.direction == Phase.FORWARD)
    begun = frozenset(row.stage for row in rows if row.attempt > 0 and row.direction == Phase.FORWARD)
    return mismatch(old, new, strands.finished(connection, run_id) | begun, active)


def misfits(connection: Connection, plans: Sequence[Plan]) -> list[tuple[RunSummary, str]]:
    """Unfinished runs that these definitions would park, or whose undo they have no more, and why; oldest first."""
    by_name = {plan.pipeline: plan for plan in plans}
    unfinished = runs.c.status.in_([constant(status) for status in UNFINISHED])
    digests = [plan.digest for plan in plans]
    other = and_(runs.c.pipeline.in_(by_name), runs.c.definition.not_in(digests), unfinished)
    found: list[tuple[RunSummary, str]] = []
    for row in connection.execute(select(runs).where(other).order_by(runs.c.created_at)).all():
        facts = facts_of(row)
        old, new = plan_of(connection, facts.definition), by_name[facts.pipeline]
        forward = facts.phase in (Phase.FORWARD, Phase.SETTLED) and facts.status is not RunStatus.COMPENSATION_FAILED
        why = (why_not(connection, facts.id, old, new) if forward else None) or _undo_gone(connection, facts.id, new)
        if why is not None:
            found.append((summary_of(facts), why))
    return found


def _undo_gone(connection: Connection, run_id: str, new: Plan) -> str | None:
    due = OPEN_STEPS | {StepState.COMPENSATION_FAILED}
    owed = [stage for stage, state in strands.steps(connection, run_id).items() if state in due]
    gone = [stage for stage in owed if stage not in new.by_name or new.by_name[stage].undo is None]
    return f"the undo of {', '.join(gone)} is owed, and gone" if gone else None
