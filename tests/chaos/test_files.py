"""A database that is a file: its disk is full, or some may only read it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stageflow_durable.errors import StoreUnavailable
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.services.disk import SmallDisk

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(SQLITE_VALKEY, max_recoveries=50)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Twenty megabytes."""
    made = SmallDisk(tmp_path / "disk", 20)
    yield made
    made.close()


@pytest.fixture
def on_disk(mended: ChaosSite, disk: SmallDisk, tmp_path: Path) -> Iterator[ChaosSite]:
    """A site whose database, and nothing else, is on that disk; one worker."""
    with mended.beside(f"sqlite:///{disk.path}/s.db", tmp_path, "disk") as site:
        yield site


def test_given_a_disk_that_fills_up_under_runs_when_there_is_space_again_then_every_run_comes_to_its_end(
    on_disk: ChaosSite, disk: SmallDisk
) -> None:
    before = [worker.process.pid for worker in on_disk.workers]
    runs = on_disk.under_way()
    disk.fill()
    refused = []
    until = time.monotonic() + 6
    while time.monotonic() < until:
        try:
            runs.append(on_disk.engine.enqueue("five", {"note": "x" * 20_000}))
        except StoreUnavailable as error:
            refused.append(str(error))
            time.sleep(0.2)
    assert len(refused) >= 5
    assert all("full" in why for why in refused)
    disk.free()
    on_disk.survived(runs, within=90)
    assert len(on_disk.engine.runs(limit=1000)) == len(runs)  # what was refused is not there
    assert [worker.process.pid for worker in on_disk.workers if worker.lives] == before


def test_given_a_worker_and_a_client_that_may_only_read_then_they_say_so_and_who_may_write_does_the_work(
    mended: ChaosSite,
) -> None:
    url = f"sqlite:///file:{mended.directory / 'stageflow.db'}?mode=ro&uri=true"
    reader = mended.client(queue="mixed", database_url=url)
    with pytest.raises(StoreUnavailable, match="readonly"):
        reader.enqueue("three", {})
    blind = mended.worker(queue="mixed", database_url=url)
    mended.ready(blind)
    runs = mended.load(6, queue="mixed")
    mended.until(lambda: "readonly" in blind.log(), "it says why it does nothing")
    assert mended.ledger.entries([run.run_id for run in runs]) == []
    mended.ready(mended.worker(queue="mixed"))
    mended.survived(runs, within=90)
    assert blind.lives
    reader.close()
    mended.forget(*mended.workers)
