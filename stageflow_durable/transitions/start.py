"""Beginning a stage or an undo: because a message names it, or because it was granted."""

from __future__ import annotations

from stageflow_durable.model.status import Cause, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Claimant, Nudge, Refusal, Refused, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.compatibility import refuse_definition
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.groups import groups_of, open_undos_of_items
from stageflow_durable.transitions.limits import admitted, wanted
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, stop
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.waiting import arrive, needs_no_worker

EARLY_SECONDS = 0.05
"""How early a message with a countdown may arrive: timers of two machines differ by some milliseconds."""


def begin(facts: Facts, nudge: Nudge, claimant: Claimant) -> Change | Refused:
    """Take the strand that a message names. A message that is delivered twice finds nothing to take.

    :returns: a change with ``granted``; a refusal; or a change with ``refused``, if the refusal has to be recorded.
    """
    row = facts.strands.get(nudge.strand)
    refused = refusal(facts, row, nudge)
    if refused is not None or row is None:
        return Refused(refused or Refusal.NOT_READY)
    draft = Draft(facts)
    draft.refused = refuse_late(draft) or refuse_definition(draft, row, claimant, draft)
    waits = draft.refused is None and arrive(draft, row.strand)
    if waits or (draft.refused is None and open_undos_of_items(draft, row)):
        draft.refused = Refused(Refusal.NOT_DUE)
    if draft.refused is None:
        needs = wanted(draft, row, claimant) if draft.plan.has_limits else ()
        if needs is None:
            return Refused(Refusal.KEYS, keys_of=_attempt(draft, row, claimant, draft.next_number(row), draft.clock))
        if not needs or admitted(draft, row, needs, claimant):
            start(draft, row, claimant)
        else:
            draft.refused = Refused(Refusal.NOT_DUE)
    return draft.done()


def refusal(facts: Facts, row: StrandRow | None, nudge: Nudge) -> Refusal | None:
    """Why the message finds nothing to take; None if it does."""
    if row is None:
        return Refusal.NOT_READY
    if row.gen != nudge.gen:
        return Refusal.FENCED
    if facts.run.phase.value != row.direction:
        return Refusal.STOPPED
    early = row.state == StrandState.WAITING and (row.wake_at or 0.0) > facts.clock + EARLY_SECONDS
    # No message ends these waits, so this one is an old one.
    if early or needs_no_worker(facts.plan, row):
        return Refusal.NOT_DUE
    if row.state not in (StrandState.READY, StrandState.WAITING):
        return Refusal.NOT_READY
    return None if facts.alive else Refusal.DEAD_OWNER


def refuse_late(draft: Draft) -> Refused | None:
    """Nothing begins past the deadline: if a message arrives before the next sweep, the run is stopped here."""
    if not draft.is_late:
        return None
    stop(draft, Cause.DEADLINE, error=DEADLINE_PASSED)
    return Refused(Refusal.STOPPED)


# --- beginning --------------------------------------------------------------------------------------------------------


def start(draft: Draft, row: StrandRow, claimant: Claimant) -> None:
    """Begin the stage at which the strand stands, or its undo. The intent to undo is recorded before the action."""
    forward, stage = row.direction == Phase.FORWARD, row.stage
    number = draft.next_number(row)
    first_at = draft.clock if row.first_at is None else row.first_at
    limit = claimant.timeouts.get((draft.run.pipeline, stage)) if forward else None
    draft.set_strand(
        row.strand,
        stage=stage,
        state=StrandState.RUNNING,
        owner=claimant.owner,
        attempt=number,
        first_at=first_at,
        published_at=None,
        nudges=0,
        progress=None,
        began_at=draft.clock,
        kill_by=None if limit is None else draft.clock + limit,
        **AWAKE,
    )
    (_intend if forward else _begin_undo)(draft, stage)
    begun = {"stage": stage, "attempt": number, "owner": claimant.owner}
    if not (forward and draft.add_to_last("stage.ok", then=begun)):
        draft.emit("stage.begun" if forward else "undo.begun", **begun)
    draft.granted = _attempt(draft, row, claimant, number, first_at)


def _attempt(draft: Draft, row: StrandRow, claimant: Claimant, number: int, first_at: float) -> Work:
    return Work(
        run=draft.run,
        plan=draft.plan,
        strand=row.strand,
        direction=Phase(row.direction),
        stage=row.stage,
        gen=row.gen,
        owner=claimant.owner,
        attempt=number,
        tries=row.tries,
        lost=row.lost,
        delay=row.delay,
        first_at=first_at,
        began_at=draft.clock,
        queue=row.queue,
        seq=draft.seq,
        head=draft.facts.head,  # the store replaces it by the new one
        sent_at=row.published_at,
    )


def may_go_on(draft: Draft, row: StrandRow, claimant: Claimant | None, here: str) -> bool:
    """Whether ``claimant``, which has just committed, may begin the strand's stage itself, without a message. Else it
    is published.

    ``claimant``: None if the message has carried the run far enough, or its process stops. ``here``: the queue from
    which the owner took its message.
    """
    if claimant is None or draft.run.phase.value != row.direction or row.queue != here:
        return False
    by_items = row.direction == Phase.BACKWARD and groups_of(draft, row.stage)  # each of them is undone by itself
    if by_items or (row.direction == Phase.FORWARD and draft.is_late):
        return False
    plan = claimant.plans.get(draft.run.pipeline)
    return plan is not None and plan.digest == draft.run.definition and draft.facts.alive


def _intend(draft: Draft, stage: str) -> None:
    planned = draft.plan.by_name[stage]
    if planned.undo is not None:
        draft.intend(stage)
    draft.change(status=RunStatus.RUNNING)
    if planned.pivot:
        draft.change(pivot_passed=True)


def _begin_undo(draft: Draft, stage: str) -> None:
    state = draft.steps[stage]
    if state is not StepState.COMPENSATING:  # a later attempt keeps the outcome that the first one recorded
        outcome = "ok" if state is StepState.RECORDED else "unknown"
        draft.set_step(stage, StepState.COMPENSATING, outcome=outcome)
