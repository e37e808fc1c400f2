"""What few stages have: saved steps, tools, the undo of tools' calls. Each is imported when a stage first needs it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from stageflow_durable.clock import World
from stageflow_durable.engine.services import Services
from stageflow_durable.model.stage import Runner, StageSpec
from stageflow_durable.model.work import Work
from stageflow_durable.store.protocol import Store

if TYPE_CHECKING:
    from stageflow_durable.engine.steps import Steps


def steps_of(world: World, limits: Any, spec: StageSpec, services: Services, store: Store) -> Steps:
    """What saves the steps of an attempt, and calls its tools."""
    from stageflow_durable.engine.steps import Steps

    return Steps(services, store, world, limits, None if spec.tools is None else partial(_tools, spec.tools))


def _tools(registry: Any, steps: Steps, ctx: Any) -> Any:
    from stageflow_durable.engine.tool_calls import Tools

    return Tools(steps, registry, ctx)


def undo_of(work: Work, spec: StageSpec, own: Runner, store: Store, world: World, limits: Any) -> Runner:
    """The undo of a stage: its ``own``, behind those of its tools' calls."""
    if not work.plan.by_name[work.stage].undoes_calls:
        return own
    from stageflow_durable.engine.tool_undos import undoing

    return undoing(own, store, work, spec.tools, world, limits)
