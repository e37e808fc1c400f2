"""The disk of PostgreSQL is full: rows first, then its log, for which it gives up altogether."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from stageflow_durable.errors import StoreUnavailable
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.services.disk import SmallDisk
from tests.services.postgres import PostgresService

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.postgres, on(SQLITE_VALKEY, max_recoveries=50)]


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """Three hundred megabytes, where the user of the database may look."""
    with tempfile.TemporaryDirectory(prefix="sf-disk-") as directory:
        Path(directory).chmod(0o755)
        made = SmallDisk(Path(directory) / "disk", 300)
        yield made
        made.close()


@pytest.fixture
def postgres(disk: SmallDisk) -> Iterator[PostgresService]:
    """A server whose files are there."""
    made = PostgresService(within=disk.path)
    made.start()
    yield made
    made.close()


@pytest.fixture
def on_disk(mended: ChaosSite, postgres: PostgresService, tmp_path: Path) -> Iterator[ChaosSite]:
    """A site on it, with a worker."""
    with mended.beside(postgres.create_database(), tmp_path, "disk") as site:
        yield site


def use_up_the_log(site: ChaosSite) -> None:
    """Until the server finds no space for the next piece of its write-ahead log, and gives up."""
    with suppress(psycopg.OperationalError), psycopg.connect(site.plain_url, autocommit=True) as connection:
        for _ in range(100):
            connection.execute("SELECT pg_logical_emit_message(false, 'full', repeat('x', 100000))")
            connection.execute("SELECT pg_switch_wal()")
        pytest.fail("its log has found space a hundred times")


@pytest.mark.parametrize("log", [False, True], ids=["rows", "log"])
def test_given_a_database_whose_disk_fills_up_when_there_is_space_and_it_runs_again_then_every_run_comes_to_its_end(
    on_disk: ChaosSite, disk: SmallDisk, postgres: PostgresService, log: bool
) -> None:
    before = [worker.process.pid for worker in on_disk.workers]
    runs = on_disk.under_way()
    disk.fill()
    if log:
        use_up_the_log(on_disk)
    refused: list[str] = []
    while len(refused) < 5:
        try:
            runs.append(on_disk.engine.enqueue("five", {"note": "x" * 200_000}))
        except StoreUnavailable as error:
            refused.append(str(error))
            time.sleep(0.3)  # the next refusal, not the same one
    assert all("No space left" in why for why in refused) or log
    assert postgres.running is not log
    disk.free()
    postgres.ensure_running()
    on_disk.reconnect()
    on_disk.survived(runs, within=90)
    assert len(on_disk.engine.runs(limit=10_000)) == len(runs)  # what was refused is not there
    assert [worker.process.pid for worker in on_disk.workers if worker.lives] == before
