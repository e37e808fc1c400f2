"""Beginning a stage or an undo: because a message names it, or because it was granted."""

from __future__ import annotations

from stageflow_durable.model.plan import Plan, mismatch
from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StepState, StrandState
from stageflow_durable.model.work import Claimant, Nudge, Refusal, Refused, Work
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import AWAKE, Draft
from stageflow_durable.transitions.facts import Facts, NotLoaded, Part
from stageflow_durable.transitions.groups import groups_of, open_undos_of_items
from stageflow_durable.transitions.hand_back import hand_back
from stageflow_durable.transitions.resolve import DEADLINE_PASSED, stop
from stageflow_durable.transitions.rows import StrandRow
from stageflow_durable.transitions.waiting import arrive, needs_no_worker, release_those_that_wait_for_nothing

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
        start(draft, row, claimant)
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


# --- whether this process knows the run's definition ------------------------------------------------------------------


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
    draft.granted = Work(
        run=draft.run,
        plan=draft.plan,
        strand=row.strand,
        direction=Phase(row.direction),
        stage=stage,
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
