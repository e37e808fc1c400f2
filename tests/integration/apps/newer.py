"""The application of the next release: it knows one more pipeline."""

from __future__ import annotations

from stageflow_durable import Engine
from tests.integration.apps.lanes import PIPELINES, line

NEW = line("new", 3)

engine = Engine("lanes", (*PIPELINES, NEW))
celery_app = engine.celery_app
