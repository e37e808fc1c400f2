"""Whether the owner that just committed may begin the next stage itself, and if not, why."""

from __future__ import annotations

from enum import StrEnum

from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import Claimant
from stageflow_durable.transitions.draft import Draft
from stageflow_durable.transitions.groups import groups_of
from stageflow_durable.transitions.rows import StrandRow


class Denial(StrEnum):
    """Why a stage is not granted. It is published instead."""

    NO_OWNER = "the message has carried the run far enough, or its process stops"
    STOPPING = "the run goes no further this way"
    QUEUE = "the stage runs on another queue"
    LATE = "the run's deadline has passed"
    ITEMS = "each of the stage's items is undone by itself"
    DEFINITION = "this process knows another definition"
    DEAD_OWNER = "this process was declared dead"


def denial(draft: Draft, row: StrandRow, claimant: Claimant | None, here: str) -> Denial | None:
    """Why ``claimant`` may not begin the strand's stage itself; None if it may.

    ``claimant``: None if the owner does not go on. ``here``: the queue from which the owner took its message.
    """
    if claimant is None:
        return Denial.NO_OWNER
    if draft.run.phase.value != row.direction:
        return Denial.STOPPING
    if row.queue != here:
        return Denial.QUEUE
    if row.direction == Phase.FORWARD:
        hindered = Denial.LATE if draft.is_late else None
    else:
        hindered = Denial.ITEMS if groups_of(draft, row.stage) else None
    if hindered is not None:
        return hindered
    plan = claimant.plans.get(draft.run.pipeline)
    known = plan is not None and plan.digest == draft.run.definition
    if known and draft.facts.alive:
        return None
    return Denial.DEAD_OWNER if known else Denial.DEFINITION
