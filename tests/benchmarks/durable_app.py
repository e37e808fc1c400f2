"""The worker's side of our own runs; its settings come from the environment, as in production."""

from __future__ import annotations

from stageflow_durable import Engine
from tests.benchmarks.pipelines import PIPELINES

engine = Engine("bench", PIPELINES)
celery_app = engine.celery_app
