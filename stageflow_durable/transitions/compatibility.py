"""Whether a run that began under one definition can go on under another."""

from __future__ import annotations

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import AT_REST, OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.start import why_not

_GONE = {*AT_REST} - {RunStatus.PARKED, RunStatus.COMPENSATION_FAILED}
UNFINISHED = tuple(status for status in RunStatus if status not in _GONE)
"""Statuses of runs that go on, or that a person may let go on."""


def misfit(facts: Facts, new: Plan) -> str | None:
    """Why ``new`` would park the run, or has an undo no more that it owes; None: neither."""
    run = facts.run
    forward = run.phase in (Phase.FORWARD, Phase.SETTLED) and run.status is not RunStatus.COMPENSATION_FAILED
    return (why_not(Draft(facts), new) if forward else None) or _undo_gone(facts, new)


def _undo_gone(facts: Facts, new: Plan) -> str | None:
    due = OPEN_STEPS | {StepState.COMPENSATION_FAILED}
    owed = [stage for stage, state in facts.steps.items() if state in due]
    gone = [stage for stage in owed if stage not in new.by_name or new.by_name[stage].undo is None]
    return f"the undo of {', '.join(gone)} is owed, and gone" if gone else None
