"""An application that was there before, has no task of its own, and spawns its pool's children."""

from __future__ import annotations

import os

from celery import Celery

from stageflow_durable import Engine
from tests.integration.apps.lanes import PIPELINES

app = Celery("theirs", broker=os.environ.get("STAGEFLOW_BROKER_URL", "memory://"), set_as_current=False)
app.conf.worker_pool_start_method = "spawn"
engine = Engine("shop", PIPELINES, celery_app=app)
