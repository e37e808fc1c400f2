"""What becomes of a run that has stopped: undo, park or end; and in which order it is undone. Pure decisions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, Cause, ParkReason, Phase, RunStatus, StepState


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where the run goes now."""

    phase: Phase
    status: RunStatus


def settlement(
    cause: Cause,
    park_reason: ParkReason | None,
    steps: Mapping[str, StepState],
    *,
    pivot_passed: bool,
    past_pivot: bool,
) -> Settlement:
    """Decide on a draining run whose strands are at rest.

    A run to be parked stays as it is. Past the pivot nothing is undone unless a person asked for it. Otherwise every
    stage that may have acted is undone; if none did, the run ends.
    """
    if park_reason is not None:
        return Settlement(Phase.SETTLED, RunStatus.PARKED)
    if OPEN_STEPS.intersection(steps.values()) and (past_pivot or not pivot_passed):
        return Settlement(Phase.BACKWARD, RunStatus.COMPENSATING)
    return Settlement(Phase.SETTLED, RunStatus.FAILED if cause is Cause.FAILED else RunStatus.CANCELLED)


def halted(on_compensation_failure: str, steps: Mapping[str, StepState]) -> bool:
    """Whether a failed undo keeps the older ones from beginning (``on_compensation_failure="halt"``)."""
    return on_compensation_failure == "halt" and StepState.COMPENSATION_FAILED in steps.values()


def undone(steps: Mapping[str, StepState], *, halt: bool = False) -> Settlement | None:
    """Decide how a run that goes backward ends; None while an undo is still owed. ``halt``: it ends all the same."""
    if OPEN_STEPS.intersection(steps.values()) and not halt:
        return None
    failed = StepState.COMPENSATION_FAILED in steps.values()
    return Settlement(Phase.SETTLED, RunStatus.COMPENSATION_FAILED if failed else RunStatus.COMPENSATED)


def ready_undos(plan: Plan, steps: Mapping[str, StepState]) -> tuple[str, ...]:
    """Stages whose undo may begin now: their step is open and not begun, and no descendant's step is open. So completed
    work is undone in the reverse order of the graph (Garcia-Molina & Salem, "Sagas", 1987).

    Later stages first, so that a single worker undoes in reverse order of the plan.
    """
    open_ = {name for name, state in steps.items() if state in OPEN_STEPS}
    waiting = {name for name in open_ if steps[name] is not StepState.COMPENSATING}
    return tuple(
        stage.name
        for stage in reversed(plan.stages)
        if stage.name in waiting and open_.isdisjoint(plan.descendants[stage.name])
    )
