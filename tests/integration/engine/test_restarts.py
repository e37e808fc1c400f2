"""A database that restarts while an application is idle: its next call goes over a new connection."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from stageflow_durable import Engine, RunStatus
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Site
from tests.services.postgres import PostgresService

pytestmark = [pytest.mark.chaos, on(POSTGRES_VALKEY)]

RESTARTS: dict[str, Callable[[PostgresService], None]] = {
    "shut down": PostgresService.stop,
    "killed": PostgresService.kill,
}


@pytest.fixture
def engine(bare_site: Site) -> Iterator[Engine]:
    made = bare_site.client()
    try:
        yield made
    finally:
        made.close()


def everything(engine: Engine) -> None:
    """Calls of an application, each over the connections that it uses."""
    run = engine.enqueue("three", {})
    assert run.describe().status is RunStatus.PENDING
    assert run.run_id in {one.run_id for one in engine.runs(limit=1000)}
    assert [event.type for event in run.history()] == ["run.accepted"]
    assert run.outputs() == {}
    engine.cancel(run.run_id, reason="over", actor="test")


@pytest.mark.parametrize("how", RESTARTS)
def test_given_an_idle_application_when_its_database_restarts_then_no_call_fails(
    engine: Engine, postgres: PostgresService, how: str
) -> None:
    with ThreadPoolExecutor(3) as threads:
        for _ in range(2):
            list(threads.map(everything, [engine] * 6))
            everything(engine)
            RESTARTS[how](postgres)
            postgres.start()
        list(threads.map(everything, [engine] * 6))
        everything(engine)


def connected(site: Site) -> int:
    """How many connections the engine's database has."""
    url = site.settings["database_url"].replace("+psycopg", "")
    with psycopg.connect(url) as connection:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        found: tuple[Any, ...] | None = connection.execute(asked).fetchone()
        assert found is not None
        return int(found[0])


def test_when_an_engine_is_closed_then_no_thread_keeps_a_connection_open(bare_site: Site, engine: Engine) -> None:
    bare_site.engine.close()
    before = connected(bare_site)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(everything, [engine] * 6))
        assert connected(bare_site) > before
        engine.close()
        bare_site.until(lambda: connected(bare_site) == before, "the server has closed them")


def test_when_threads_have_ended_then_their_connections_are_closed(bare_site: Site, engine: Engine) -> None:
    everything(engine)
    gc.collect()
    before = connected(bare_site)
    for _ in range(3):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(everything, [engine] * 6))
    bare_site.until(lambda: connected(bare_site) <= before + 3, "what stays is the pool's")
