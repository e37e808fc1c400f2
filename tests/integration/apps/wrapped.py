"""The same lines as ``lanes``, their stages within interceptors of both kinds, and an observer that fails."""

from __future__ import annotations

import asyncio
from typing import Any

from stageflow_durable import AttemptEnd, Engine, Interceptor, StageOutput
from tests.integration.apps.lanes import PIPELINES


class Through(Interceptor):
    """A ``def``."""

    name, priority = "through", 20

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        output: StageOutput = call_next(ctx)
        return output


class ThroughLoop(Interceptor):
    """An ``async def``, outside of the other or within it."""

    name = "through the loop"

    def __init__(self, priority: int) -> None:
        self.priority = priority

    async def around(self, ctx: Any, call_next: Any) -> StageOutput:
        await asyncio.sleep(0)
        output: StageOutput = await call_next(ctx)
        await asyncio.sleep(0)
        return output


async def hears(end: AttemptEnd) -> None:
    """Says in the history that it was told."""
    await asyncio.sleep(0)
    raise ValueError(f"told of {'undo' if end.undo else 'stage'} {end.ctx.stage}: {end.result.kind}")


engine = Engine("lanes", PIPELINES, interceptors=[ThroughLoop(10), Through(), ThroughLoop(30)], observers=[hears])
celery_app = engine.celery_app
