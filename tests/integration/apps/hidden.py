"""An engine that no module's variable holds: a spawned child cannot import it."""

from __future__ import annotations

from typing import Any

from stageflow_durable import Engine
from tests.integration.apps.lanes import PIPELINES


class Celeries:
    """Holds the engine."""

    engine = Engine("hidden", PIPELINES)
    engine.celery_app.conf.worker_pool_start_method = "spawn"


def __getattr__(name: str) -> Any:
    if name == "celery":
        return Celeries.engine.celery_app
    raise AttributeError(name)
