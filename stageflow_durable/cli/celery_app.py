"""What ``stageflow worker`` points Celery at: ``app``, the Celery application of the Engine named by STAGEFLOW_APP."""

from __future__ import annotations

from stageflow_durable.cli.application import load_application
from stageflow_durable.cli.session import Session

app = load_application(Session().application_reference()).celery_app
