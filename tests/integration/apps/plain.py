"""The same application with Celery's own consumer, to see what ours is for."""

from __future__ import annotations

from stageflow_durable import Engine
from tests.integration.apps.lanes import PIPELINES

engine = Engine("lanes", PIPELINES)
celery_app = engine.celery_app
celery_app.conf.worker_consumer = "celery.worker.consumer:Consumer"
