"""In which order completed work is undone: the reverse of the graph (Garcia-Molina & Salem, "Sagas", 1987)."""

from __future__ import annotations

from collections.abc import Mapping

from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import OPEN_STEPS, StepState


def ready_undos(plan: Plan, steps: Mapping[str, StepState]) -> tuple[str, ...]:
    """Stages whose undo may begin now: their step is open and not begun, and no descendant's step is open.

    Later stages first, so that a single worker undoes in reverse order of the plan.
    """
    open_ = {name for name, state in steps.items() if state in OPEN_STEPS}
    waiting = {name for name in open_ if steps[name] is not StepState.COMPENSATING}
    return tuple(
        stage.name
        for stage in reversed(plan.stages)
        if stage.name in waiting and open_.isdisjoint(plan.descendants[stage.name])
    )
