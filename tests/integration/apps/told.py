"""The lanes with a sink that writes down what it is told, and one that hangs."""

from __future__ import annotations

import os
import time

from stageflow_durable import Engine
from stageflow_durable.sinks import Function, RunEvent
from tests.integration.apps.lanes import PIPELINES
from tests.integration.apps.ledger import VARIABLE


def write_down(event: RunEvent) -> None:
    with open(f"{os.environ[VARIABLE]}.told", "a", encoding="utf-8") as file:  # noqa: PTH123  # appended to by several processes
        file.write(f"{event.run_id} {event.seq} {event.type}\n")


def hang(_event: RunEvent) -> None:
    time.sleep(1000)


engine = Engine("lanes", PIPELINES, sinks=[write_down, Function(hang, name="hangs")])
celery_app = engine.celery_app
