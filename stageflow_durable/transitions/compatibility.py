"""Which definition a run goes by: whether this process knows it, and whether a run that began under one can go on under
another.
"""

from __future__ import annotations

from stageflow_durable.model.plan import Plan, mismatch
from stageflow_durable.model.status import (
    AT_REST,
    OPEN_STEPS,
    Cause,
    ParkReason,
    Phase,
    RunStatus,
    StepState,
    StrandState,
)
from stageflow_durable.model.work import Claimant, Refusal, Refused
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.hand_back import hand_back
from stageflow_durable.transitions.resolve import stop
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.waiting import release_those_that_wait_for_nothing

_GONE = {*AT_REST} - {RunStatus.PARKED, RunStatus.COMPENSATION_FAILED}
UNFINISHED = tuple(status for status in RunStatus if status not in _GONE)
"""Statuses of runs that go on, or that a person may let go on."""


def refuse_definition(draft: Draft, row: StrandRow, claimant: Claimant, of_run: Draft | None) -> Refused | None:
    """Refuse what this process cannot run; move the run to a newer definition if what it has done so far allows it.
    ``of_run``: the draft of the whole run, which for a strand of its own is ``draft``.
    """
    run, plan = draft.run, claimant.plans.get(draft.run.pipeline)
    if plan is not None and plan.digest == run.definition:
        return None
    if plan is not None and row.direction == Phase.BACKWARD:
        return _refuse_undo(draft, row, plan)
    if plan is None or _is_older(draft.facts, plan.digest, than=run.definition):
        return hand_back(draft, row)  # else an old worker would drop stages that the run was accepted with
    if of_run is None:
        raise NotLoaded(Part.RUN)
    why = why_not(of_run, plan)
    if why is None:
        move_to(of_run, plan)
        draft.plan = plan
        return None
    # In a rolling deploy old workers meet new runs, and new workers old ones: only the newest definition may park.
    if not _is_newest(draft.facts, plan.digest):
        return hand_back(draft, row)
    stop(of_run, Cause.FAILED, error=f"definition changed: {why}", stage=row.stage, park=ParkReason.DEFINITION)
    return Refused(Refusal.PARKED)


def move_to(draft: Draft, plan: Plan) -> None:
    """From here on the run goes by ``plan``."""
    draft.change(definition=plan.digest, version=plan.version)
    draft.emit("run.migrated", definition=plan.digest, version=plan.version)
    draft.plan = plan
    release_those_that_wait_for_nothing(draft)


def follow_newest(draft: Draft, ending: str) -> None:
    """What comes next is said by the newest definition, as for a stage that begins, where a live worker knows it: once
    behind a wait, the run could not go on under one that has added a stage there.

    ``ending``: the stage whose wait ends now. What it waited for is said by the definition under which it waits: one in
    which it is something else, or takes another payload, is not followed before the next stage begins.
    """
    newest, run = draft.facts.newest, draft.run
    if newest.digest == run.definition or newest.digest not in draft.facts.roster.digests:
        return
    now, then = draft.plan.by_name[ending], newest.by_name.get(ending)
    is_same = then is not None and (then.kind, then.schema) == (now.kind, now.schema)
    if is_same and why_not(draft, newest) is None:
        move_to(draft, newest)


def _refuse_undo(draft: Draft, row: StrandRow, plan: Plan) -> Refused | None:
    """Refuse an undo if this definition lacks it or cannot read what the run saved. The newest definition never
    refuses: there the undo fails, and a person has to decide.
    """
    known = plan.by_name.get(row.stage)
    can = known is not None and known.undo is not None and unreadable(draft.facts.schemas, plan) is None
    return None if can or _is_newest(draft.facts, plan.digest) else hand_back(draft, row)


def _is_older(facts: Facts, digest: str, than: str) -> bool:
    one, other = facts.definitions.get(digest), facts.definitions.get(than)
    return one is not None and other is not None and one < other


def _is_newest(facts: Facts, digest: str) -> bool:
    registered = facts.definitions
    return bool(registered) and max(registered, key=lambda one: registered[one]) == digest


def why_not(draft: Draft, new: Plan) -> str | None:
    """Why the run cannot go on under ``new``; None if it can."""
    cannot_read = unreadable(draft.facts.schemas, new)
    if cannot_read is not None:
        return cannot_read
    rows = [row for row in draft.strands.values() if row.direction == Phase.FORWARD]
    active = frozenset(row.stage for row in rows if row.state != StrandState.DONE)
    begun = frozenset(row.stage for row in rows if row.attempt > 0)
    return mismatch(draft.plan, new, begun | draft.saved.keys(), active)


def unreadable(saved: frozenset[int], new: Plan) -> str | None:
    """Why ``new`` cannot read what was saved under these schemas; None if it can."""
    wrong = sorted(schema for schema in saved if not new.reads <= schema <= new.schema)
    if not wrong:
        return None
    return f"its outputs have schema {wrong[0]}, this definition reads {new.reads} to {new.schema}"


def misfit(facts: Facts, new: Plan) -> str | None:
    """Why ``new`` would park the run, or has an undo no more that it owes; None: neither."""
    run = facts.run
    forward = run.phase in (Phase.FORWARD, Phase.SETTLED) and run.status is not RunStatus.COMPENSATION_FAILED
    return (why_not(Draft(facts), new) if forward else None) or _undo_gone(facts, new)


def _undo_gone(facts: Facts, new: Plan) -> str | None:
    due = OPEN_STEPS | {StepState.COMPENSATION_FAILED}
    owed = sorted(stage for stage, state in facts.steps.items() if state in due)
    gone = [stage for stage in owed if stage not in new.by_name or new.by_name[stage].undo is None]
    return f"the undo of {', '.join(gone)} is owed, and gone" if gone else None
