"""What interceptors remember of a run outside the engine's store, in Redis say: found by the keys of its stages, and
erased there, before the values go by which those keys are told.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from stageflow_durable.engine import body
from stageflow_durable.engine.outcome import text_of
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.engine.services import Services
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import RunFacts, Work
from stageflow_durable.store.protocol import Store

log = logging.getLogger("stageflow.erase")


def forget(store: Store, run: RunFacts, pipeline: Pipeline[Any, Any], interceptors: Iterable[Any]) -> None:
    """Let each interceptor that remembers (it has ``forget(ctx)``) forget what it knows of the stages that began.

    Raises StoreUnavailable. A stage whose key cannot be told any more is logged: what is remembered of it runs out.
    """
    around = [one for one in interceptors if hasattr(one, "forget")]
    began = [stage.name for stage in store.run(run.id).stages if stage.attempts]
    for stage in [name for name in began if name in pipeline.by_name]:
        within = getattr(getattr(pipeline.by_name[stage].runner, "__self__", None), "idempotency", None)
        guards = [*around, *([within] if hasattr(within, "forget") else [])]
        if guards:
            _forget_stage(store, run, pipeline, stage, guards)


def _forget_stage(store: Store, run: RunFacts, pipeline: Pipeline[Any, Any], stage: str, guards: Sequence[Any]) -> None:
    work = _as_begun(run, pipeline, stage)
    services = Services(store, work, is_async=False)
    try:
        ctx = services.context.run(body.stage_context, work, RunOutputs(store, pipeline), services)
        for guard in guards:
            services.context.run(guard.forget, ctx)
    except StoreUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  # the application's extractor; the values have to go all the same
        said = "run %s: what is remembered of stage %s outside cannot be found any more (%s); it runs out by itself"
        log.warning(said, run.id, stage, text_of(error))


def _as_begun(run: RunFacts, pipeline: Pipeline[Any, Any], stage: str) -> Work:
    """The stage as if it began now, for its context alone: nobody owns it."""
    at = run.created_at
    place = (stage, Phase.FORWARD, stage, 0, "", 1, 0, 0, None, at, at, run.queue, run.seq, run.head)
    return Work(run, pipeline.plan, *place)
