"""Workers that are there before their database, or before its schema, and with nobody else to sweep for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stageflow_durable import Engine, RunStatus
from stageflow_durable.errors import SchemaBehind
from stageflow_durable.state.schema import upgrade
from tests.integration.apps.lanes import PIPELINES
from tests.integration.engine.claims import is_whole
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Site, Worker
from tests.services.postgres import PostgresService

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]


def test_a_worker_that_was_there_before_its_database_carries_what_waits_for_it(
    bare_site: Site, postgres: PostgresService
) -> None:
    run = bare_site.engine.enqueue("three", {}, queue="early")
    postgres.kill()
    worker = bare_site.worker(queue="early")
    bare_site.ready(worker)
    bare_site.until(lambda: "stageflow-heartbeat: the database did not answer" in worker.log(), "it was missed")
    postgres.start()
    bare_site.at_rest([run])
    bare_site.reconnect()
    is_whole(bare_site, run, 3)
    bare_site.forget(worker)


def test_a_worker_that_was_there_before_its_database_sweeps_once_it_is_there(
    bare_site: Site, postgres: PostgresService
) -> None:
    run = bare_site.engine.enqueue("three", {}, queue="lost")
    bare_site.broker.flushall()
    postgres.kill()
    worker = bare_site.worker(queue="lost")
    bare_site.ready(worker)
    bare_site.until(lambda: "stageflow-heartbeat: the database did not answer" in worker.log(), "it was missed")
    postgres.start()
    bare_site.at_rest([run])
    bare_site.reconnect()
    is_whole(bare_site, run, 3)
    bare_site.forget(worker)


def told(worker: Worker) -> list[str]:
    """Lines by which its processes say that the schema is behind."""
    return [line for line in worker.log().splitlines() if "ERROR" in line and "run: stageflow db upgrade" in line]


def test_a_schema_that_is_behind_names_the_command_and_is_mended_by_it(bare_site: Site, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'empty.db'}"
    settings: dict[str, Any] = {"database_url": url, "queue": "behind"}
    worker = bare_site.worker(**settings)
    bare_site.ready(worker)
    engine = Engine("lanes", PIPELINES, **{**bare_site.settings, **settings})
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        engine.enqueue("three", {})
    assert bare_site.messages("behind") == 0
    bare_site.until(lambda: told(worker), "its children say what is missing")
    upgrade(url)
    bare_site.until(lambda: "stageflow-heartbeat works again" in worker.log(), "they go on by themselves")
    assert len(told(worker)) == 2  # once each
    run = engine.enqueue("three", {})
    bare_site.until(lambda: run.status() is RunStatus.SUCCEEDED, "the run is over")
    is_whole(bare_site, run, 3)
    bare_site.forget(worker)
    engine.close()
