"""A database that restarts while an application is idle: its next call goes over a new connection."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from stageflow_durable import Engine, RunStatus
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import Database
from stageflow_durable.state.pool import KEPT
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


def test_given_a_database_that_hangs_up_on_whom_it_let_in_when_it_is_asked_then_it_is_away_and_later_back(
    postgres_url: str,
) -> None:
    database = Database(postgres_url)
    with database.read() as connection:
        connection.exec_driver_sql("SELECT 1")
    database.engine.pool.dispose()
    event.listen(database.engine, "connect", hang_up)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="just opened"), database.read():
            pass
    event.remove(database.engine, "connect", hang_up)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1
    database.dispose()


def hang_up(connection: psycopg.Connection[Any], _record: object) -> None:
    with suppress(psycopg.OperationalError):
        connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


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
        bare_site.until(lambda: connected(bare_site) <= before, "the server has closed them")


def test_when_threads_have_ended_then_no_more_connections_stay_than_pools_keep(bare_site: Site, engine: Engine) -> None:
    everything(engine)
    gc.collect()
    before = connected(bare_site)
    for _ in range(3):
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(everything, [engine] * 6))
    # One pool for single statements, one for transactions.
    bare_site.until(lambda: connected(bare_site) <= before + 2 * KEPT, "what stays is the pools'")
