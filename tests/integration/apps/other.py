"""Another application: it knows nothing of the lanes."""

from __future__ import annotations

from stageflow_durable import Engine
from tests.integration.apps.lanes import line

OTHER = line("other", 2)
engine = Engine("other", [OTHER])
celery_app = engine.celery_app
