"""How an application's workers are kept small, stopped and connected, by its settings: for ``doctor``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow_durable.delivery import task_class
from stageflow_durable.delivery.configure import ADVANCE
from stageflow_durable.delivery.spawned import Application

_CONTAINERS = (Path("/.dockerenv"), Path("/run/.containerenv"))


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """``eta_limit``: how many tasks with an ETA one worker holds, None: any number. ``recycled``: whether a child is
    replaced after some time. ``time_limit``: seconds, of the application's tasks; ``exempt``: whether the engine's task
    is under none. ``soft_shutdown``: seconds; ``remapped``, ``contained``: of this process, whether SIGTERM means a
    soft shutdown, and whether it is in a container. ``socket_timeout``: of a Redis broker, seconds; None: not set.
    ``adopted``: whether the application was there before the engine.
    """

    eta_limit: int | None
    recycled: bool
    time_limit: float | None
    exempt: bool
    soft_shutdown: float
    remapped: bool
    contained: bool
    socket_timeout: float | None
    adopted: bool


def worker_facts(app: Any, environment: Mapping[str, str] = os.environ) -> WorkerFacts:
    """Of a Celery application, as a worker in ``environment`` would have it."""
    conf = app.conf
    limits = [limit for limit in (conf.task_time_limit, conf.task_soft_time_limit) if limit]
    strategy = getattr(app.tasks.get(ADVANCE), "Strategy", None)
    return WorkerFacts(
        eta_limit=conf.worker_eta_task_limit,
        recycled=bool(conf.worker_max_tasks_per_child or conf.worker_max_memory_per_child),
        time_limit=min(map(float, limits), default=None),
        exempt=strategy == task_class.StageflowTask.Strategy,
        soft_shutdown=float(conf.worker_soft_shutdown_timeout or 0),
        remapped=environment.get("REMAP_SIGTERM", "").upper() == "SIGQUIT",
        contained="KUBERNETES_SERVICE_HOST" in environment or any(path.exists() for path in _CONTAINERS),
        socket_timeout=(conf.broker_transport_options or {}).get("socket_timeout"),
        adopted=not isinstance(app, Application),
    )
