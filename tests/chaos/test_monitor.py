"""Flower beside the workers: whatever becomes of it, runs do not notice."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stageflow_durable.embedded.ports import free_port
from tests.chaos.site import APP, ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import QUIET
from tests.services.process import Processes

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]


@pytest.fixture
def watched(mended: ChaosSite) -> Iterator[ChaosSite]:
    """Workers that send events, as those do that are watched."""
    workers = [mended.worker(APP, "-E", queue="watched", flags=QUIET) for _ in range(2)]
    for worker in workers:
        mended.ready(worker)
    yield mended
    mended.forget(*workers)


def test_given_flower_when_it_is_killed_and_its_database_is_damaged_then_runs_go_on_as_if_nothing_had_been(
    watched: ChaosSite, processes: Processes, tmp_path: Path
) -> None:
    pytest.importorskip("flower")
    database, port = tmp_path / "flower.db", free_port()
    kept = ["--persistent=True", f"--db={database}", "--save-state-interval=200"]
    options = [f"--port={port}", "--address=127.0.0.1", *kept]
    command = [sys.executable, "-m", "celery", "-A", APP, "flower", *options]
    before = [worker.process.pid for worker in watched.workers]
    flower = processes.start("flower", command, env=watched.environment(queue="watched"))
    watched.until(lambda: answers(port), "Flower answers")
    runs = watched.under_way(queue="watched")
    watched.until(lambda: list(tmp_path.glob("flower.db*")), "it keeps its database")
    flower.kill()
    flower.wait(10)
    for file in tmp_path.glob("flower.db*"):
        file.write_bytes(b"\xff" * 100)
    runs += watched.load(3, queue="watched")
    again = processes.start("flower", command, env=watched.environment(queue="watched"))
    watched.until(lambda: answers(port) or again.poll() is not None, "it starts over what it finds, or does not")
    watched.survived(runs)
    assert [worker.process.pid for worker in watched.workers if worker.lives] == before


def answers(port: int) -> bool:
    with suppress(OSError):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).close()
        except urllib.error.HTTPError:
            return True  # it asks who we are
        return True
    return False
