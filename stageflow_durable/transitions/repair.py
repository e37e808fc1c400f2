"""Repairing a run that nothing would ever move: a wait without a wake-up, or work that is owed and stands on no strand.

No transition leaves a run like that; a mistake in one, a row that was changed by hand, or a release that went wrong
may. A sweep looks for it from time to time, because such a run says nothing and is missed by nobody.
"""

from __future__ import annotations

from stageflow_durable.model.status import Cause, ParkReason, Phase, RunStatus, StepState, StrandState, WaitingFor
from stageflow_durable.transitions.again import stand_again
from stageflow_durable.transitions.change import Change
from stageflow_durable.transitions.draft import ACTIVE, AWAKE, Draft
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.resolve import after_undo, end, open_undos, resolve, set_activity, stop
from stageflow_durable.transitions.rows import StrandRow

REPAIRED = "sweep.repaired"
"""The type of the event that says what was repaired."""

BY_TIME = (WaitingFor.TIME, WaitingFor.LIMIT, WaitingFor.WORKER, WaitingFor.CALLBACK)
"""Waits that end by their time at the latest, and so need one. What ends the others is somebody's act."""


def has_no_wake_up(row: StrandRow) -> bool:
    """Whether a strand waits, and nothing will ever wake it."""
    return row.state == StrandState.WAITING and row.wake_at is None and row.waiting_for in BY_TIME


def repair(facts: Facts) -> Change | None:
    """Let a run move again that nothing would move. None if something will, or if it is at rest."""
    draft = Draft(facts)
    phase = draft.run.phase
    if phase is Phase.SETTLED:
        return None
    rows = tuple(draft.strands.values())
    asleep = [row for row in rows if has_no_wake_up(row)]
    for row in asleep:
        draft.emit(REPAIRED, stage=row.stage, strand=row.strand, what=f"it waited ({row.waiting_for}) without end")
        draft.set_strand(row.strand, wake_at=draft.clock)
    if not any(row.state in ACTIVE for row in rows):
        draft.emit(REPAIRED, what=f"it went {phase}, and nothing of it was ready, ran or waited")
        _move_on(draft, phase)
    elif not asleep:
        return None
    return draft.done()


def _move_on(draft: Draft, phase: Phase) -> None:
    if phase is Phase.FORWARD:
        _go_forward(draft)
    elif phase is Phase.DRAINING:
        resolve(draft)
    else:
        for row in tuple(draft.strands.values()):
            if row.direction == Phase.BACKWARD and draft.steps.get(row.stage) is StepState.COMPENSATING:
                _revive(draft, row)
        open_undos(draft)
        if not any(row.state in ACTIVE for row in draft.strands.values()):
            after_undo(draft)


def _revive(draft: Draft, row: StrandRow) -> None:
    """Begin an undo again that had begun, fenced against whoever may think that it is theirs."""
    fresh = {"owner": None, "gen": row.gen + 1, "published_at": draft.clock, "nudges": 0}
    draft.set_strand(row.strand, state=StrandState.READY, **fresh, **AWAKE)
    draft.publish(row.strand)


def _go_forward(draft: Draft) -> None:
    """Make every stage ready that may begin: it is not done, and all that it waits for is."""
    done = draft.saved.keys()
    due = [stage.name for stage in draft.plan.stages if stage.name not in done and done >= set(stage.after)]
    if not due:
        end(draft, RunStatus.SUCCEEDED)
        return
    doubtful = [stage for stage in due if draft.in_doubt(stage) and _asks_a_person(draft, stage)]
    if doubtful:
        error = f"nobody knows whether {doubtful[0]} has acted"
        stop(draft, Cause.FAILED, error=error, stage=doubtful[0], park=ParkReason.UNKNOWN)
        return
    for head in [_ready(draft, stage) for stage in due]:
        stand_again(draft, draft.strand(head))
    set_activity(draft)


def _asks_a_person(draft: Draft, stage: str) -> bool:
    planned = draft.plan.by_name[stage]
    return planned.pivot or planned.on_unknown == "park"


def _ready(draft: Draft, stage: str) -> str:
    """Put the stage on its strand, fenced against owners and messages from before; returns the strand's name."""
    before = {after: name for name, after in draft.plan.next_on_strand.items()}
    head = stage
    while head in before:
        head = before[head]
    there = draft.strands.get(head)
    # Its attempts go on counting where it stood at this stage: a number is used once.
    attempt = there.attempt if there is not None and there.stage == stage else 0
    draft.open_strand(
        head,
        direction=Phase.FORWARD,
        stage=stage,
        state=StrandState.READY,
        published_at=draft.clock,
        queue=draft.queue_of(stage),
        attempt=attempt,
        progress=None,
    )
    if there is not None:
        draft.set_strand(head, gen=there.gen + 1)
    return head
