"""The machine and what ran on it: a figure without them says nothing."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.bench import Bench
from tests.benchmarks.cpu import seconds_of, seconds_of_all
from tests.benchmarks.worker import CHILDREN

LIBRARIES = ("celery", "kombu", "billiard", "redis", "SQLAlchemy", "psycopg", "pydantic")
POSTGRES_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers")


def machine() -> dict[str, Any]:
    """Processor, system, Python and libraries."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": _processor(),
        "system": platform.platform(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "children": CHILDREN,
        "stageflow_durable": version("stageflow_durable"),
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def services(bench: Bench) -> dict[str, Any]:
    """Broker and database with what they promise to keep."""
    return {"broker": _broker(bench), "database": _database(bench)}


def _broker(bench: Bench) -> dict[str, Any]:
    with bench.broker.client() as client:
        info: Any = client.info("server")
        config: Any = client.config_get("append*")
    return {
        "server": bench.broker.name,
        "version": info.get("valkey_version") or info["redis_version"],
        "appendonly": config["appendonly"],
        "appendfsync": config["appendfsync"],
    }


def _database(bench: Bench) -> dict[str, Any]:
    with psycopg.connect(bench.postgres.url().replace("+psycopg", "")) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in POSTGRES_SETTINGS}
    return {"server": "postgresql"} | {name: row[0] if row else None for name, row in shown.items()}


class Others:
    """How much of the machine everybody else takes, from now on: what makes rates worthless."""

    def __init__(self) -> None:
        self._began, self._busy = time.monotonic(), self._foreign()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began

    def share(self) -> float:
        """Of all cores' time: what was worked outside of this process and its descendants."""
        return max(0.0, self._foreign() - self._busy) / (self.seconds * (os.cpu_count() or 1))

    def _foreign(self) -> float:
        return seconds_of_all() - seconds_of(os.getpid())
