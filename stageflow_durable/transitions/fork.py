"""A new run from the checkpoints of another: outputs are copied, obligations are not.

The original keeps what is to be undone; the fork undoes only what it does itself. Semantics:
``docs/how-to/checkpointing.md``.
"""

from __future__ import annotations

from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.status import OPEN_STEPS, Phase, RunStatus, StepState
from stageflow_durable.transitions.facts import Facts

_TAKEN_BACK = frozenset({StepState.COMPENSATING, StepState.COMPENSATED, StepState.COMPENSATION_FAILED})


def copied(facts: Facts, from_stage: str) -> frozenset[str]:
    """The stages whose outputs a fork at ``from_stage`` begins with. Raises NotAllowed where it waits for work that is
    not done, or that was undone.
    """
    run, plan = facts.run, facts.plan
    if from_stage not in plan.by_name:
        raise NotAllowed(run.id, "fork", f"it has no stage {from_stage!r}; it has: {', '.join(plan.by_name)}")
    done = frozenset(facts.saved)
    missing = [stage.name for stage in plan.stages if stage.name in plan.ancestors[from_stage] - done]
    if missing:
        raise NotAllowed(
            run.id, "fork", f"{from_stage} waits for {', '.join(missing)}, not done; fork from {missing[0]}"
        )
    found = done - {from_stage} - plan.descendants[from_stage]
    turning = run.phase in (Phase.DRAINING, Phase.BACKWARD) or run.status is RunStatus.COMPENSATION_FAILED
    void = _TAKEN_BACK | OPEN_STEPS if turning else _TAKEN_BACK  # what is owed now is undone next
    undone = [stage.name for stage in plan.stages if stage.name in found and facts.steps.get(stage.name) in void]
    if undone:
        how = "is being undone" if turning else "was undone"
        why = f"what {', '.join(undone)} did {how}, its output is true no more; fork from {undone[0]} or before"
        raise NotAllowed(run.id, "fork", why)
    return _still_approved(facts, found)


def _still_approved(facts: Facts, found: frozenset[str]) -> frozenset[str]:
    """Without the approvals of what the fork does anew: it asks again."""
    plan = facts.plan
    anew = {name for name in found if plan.by_name[name].is_approval and not found.issuperset(plan.successors[name])}
    for name in anew:
        behind = found & plan.descendants[name]
        if behind:
            why = f"{name} was approved for {', '.join(sorted(behind))} as well, which is done; fork from {name}"
            raise NotAllowed(facts.run.id, "fork", why)
    return found - anew
