"""An application that was there before: its own settings, its own task, and our engine on top."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery

from stageflow_durable import Engine
from tests.integration.apps.lanes import PIPELINES

app = Celery("theirs", broker=os.environ.get("THEIR_BROKER") or "memory://", set_as_current=False)
app.conf.update(
    task_default_queue="theirs",
    task_acks_late=False,
    worker_prefetch_multiplier=7,
    accept_content=["json", "yaml"],
    beat_schedule={"theirs": {"task": "theirs.add", "schedule": 60.0}},
    task_ignore_result=False,
    broker_transport_options={"visibility_timeout": 77},
)


@app.task(name="theirs.add")  # type: ignore[untyped-decorator]  # Celery has no types
def add(path: str, left: int, right: int) -> None:
    """Write a sum to a file."""
    Path(path).write_text(str(left + right), encoding="utf-8")


def settings() -> dict[str, Any]:
    """Every setting as it is now."""
    return {name: app.conf[name] for name in app.conf}


before = settings()
engine = Engine("shop", PIPELINES, celery_app=app)
after = settings()
