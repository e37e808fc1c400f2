"""Connections that many threads share."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Integer, literal_column, select
from sqlalchemy.engine import make_url

from stageflow_durable import Engine, Pipeline
from stageflow_durable.state import pool
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.pool import KEPT, MOST
from tests.services.process import eventually

ONE = Statement(select(literal_column("1", Integer)), is_sqlite=False)
PIPELINE = Pipeline[object, object]("p").stage("a", lambda _ctx: {})

pytestmark = pytest.mark.postgres


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def connections(url: str) -> int:
    """How many the engine has."""
    with psycopg.connect(plain(url), autocommit=True) as other:
        asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        row = other.execute(asked, ["stageflow"]).fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
def driver(postgres_url: str) -> Iterator[Driver]:
    database = Database(postgres_url)
    made = Driver(database)
    yield made
    made.close()
    database.dispose()


@pytest.fixture
def engine(migrated_postgres_url: str) -> Iterator[Engine]:
    made = Engine("x", [PIPELINE], database_url=migrated_postgres_url, broker_url="memory://")
    yield made
    made.close()


def test_given_300_threads_that_enqueue_then_all_are_answered_and_idle_threads_hold_no_connection(
    engine: Engine, migrated_postgres_url: str
) -> None:
    answered: Counter[str] = Counter()
    together, idle, most = threading.Barrier(301), threading.Event(), [0]

    def submit() -> None:
        together.wait(60)
        try:
            engine.enqueue("p", {})
            answered["started"] += 1
        except Exception as error:  # noqa: BLE001  # the test counts it
            answered[f"{type(error).__name__}: {error}"] += 1
        idle.wait(90)

    threads = [threading.Thread(target=submit, daemon=True) for _ in range(300)]
    for thread in threads:
        thread.start()
    together.wait(60)

    def all_answered() -> bool:
        most[0] = max(most[0], connections(migrated_postgres_url))
        return answered.total() == 300

    eventually(all_answered, within=60, what="all are answered")
    assert answered == {"started": 300}
    assert most[0] <= MOST + 2, "those of statements, one of a transaction, and one that is just being closed"
    eventually(lambda: connections(migrated_postgres_url) <= KEPT + 1, what="few stay, while all threads live")
    idle.set()


def test_given_hundreds_of_tasks_on_an_event_loop_that_enqueue_then_all_are_answered(
    engine: Engine, migrated_postgres_url: str
) -> None:
    async def all_of_them() -> list[object]:
        started: list[object] = await asyncio.gather(*(engine.aenqueue("p", {}) for _ in range(300)))
        return started

    assert len(asyncio.run(all_of_them())) == 300
    assert connections(migrated_postgres_url) <= KEPT + 1


def test_given_a_server_with_fewer_connections_than_the_threads_want_then_they_wait_for_one_another(
    migrated_postgres_url: str,
) -> None:
    name = sql.Identifier("few")
    limited = make_url(migrated_postgres_url).set(username="few", password="few")
    with psycopg.connect(plain(migrated_postgres_url), autocommit=True) as admin:
        admin.execute(sql.SQL("DROP ROLE IF EXISTS {0}").format(name))
        admin.execute(sql.SQL("CREATE ROLE {0} LOGIN PASSWORD 'few' CONNECTION LIMIT 2").format(name))
        admin.execute(sql.SQL("GRANT ALL ON ALL TABLES IN SCHEMA public TO {0}").format(name))
    engine = Engine("x", [PIPELINE], database_url=limited.render_as_string(hide_password=False), broker_url="memory://")
    try:
        with ThreadPoolExecutor(40) as threads:
            started = list(threads.map(lambda _number: engine.enqueue("p", {}).run_id, range(40)))
        assert len(set(started)) == 40
    finally:
        engine.close()
        with psycopg.connect(plain(migrated_postgres_url), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {0}").format(name))
            admin.execute(sql.SQL("DROP ROLE {0}").format(name))


def test_given_one_thread_then_it_works_over_one_connection(driver: Driver) -> None:
    pid = Statement(select(literal_column("pg_backend_pid()", Integer)), is_sqlite=False)
    assert len({driver.row(pid, {}) for _ in range(20)}) == 1


def test_given_connections_that_nobody_needs_any_more_then_they_are_closed_while_one_goes_on(
    driver: Driver, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Statement(select(literal_column("1 FROM pg_sleep(0.3)", Integer)), is_sqlite=False)
    with ThreadPoolExecutor(KEPT) as threads:
        list(threads.map(lambda _number: driver.row(slow, {}), range(KEPT)))
    assert connections(postgres_url) == KEPT
    monkeypatch.setattr(pool, "IDLE_SECONDS", 0.0)
    for _ in range(KEPT):
        driver.row(ONE, {})
    eventually(lambda: connections(postgres_url) == 1, what="one stays")
