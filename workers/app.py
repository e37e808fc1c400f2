"""The deployment's application: ``celery -A workers.app worker``. Replace the pipelines with yours."""

from __future__ import annotations

from stageflow_durable import Engine
from workers.pipelines import checkout

engine = Engine("workers", pipelines=[checkout])
app = celery_app = engine.celery_app
