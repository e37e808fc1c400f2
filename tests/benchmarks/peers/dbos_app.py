"""DBOS: a workflow whose steps are recorded in PostgreSQL, one committed insert each."""

from __future__ import annotations

import os
import threading

from dbos import DBOS, DBOSConfig

from tests.benchmarks.peers.line import READY, output

NAME = "bench"
POLL = 0.1
"""Seconds between two looks at the queue; the default is one, which would be most of what is measured."""


@DBOS.step()
def step() -> dict[str, str]:
    """A no-op."""
    return output()


@DBOS.workflow(name="line")
def line(length: int) -> None:
    """``length`` steps, one after the other."""
    for _ in range(length):
        step()


def config() -> DBOSConfig:
    """An executor of its own for each process; no console, no telemetry, no conductor."""
    return {
        "name": NAME,
        "system_database_url": os.environ["BENCH_DATABASE_URL"],
        "executor_id": str(os.getpid()),
        "application_version": "1",
        "console_log_level": "ERROR",
        "enable_otlp": False,
    }


if __name__ == "__main__":
    DBOS(config=config())
    DBOS.launch()
    DBOS.register_queue(NAME, polling_interval_sec=POLL)
    print(READY, flush=True)
    threading.Event().wait()
