"""PgBouncer between the engine and PostgreSQL: nothing of a session is relied on, and nothing that it loses is blamed
on a stage.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Integer, bindparam, column, literal_column, select, text

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import Database, is_pooled
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.schema import upgrade
from stageflow_durable.state.session import SessionHolder
from stageflow_durable.state.single import Singles
from tests.integration.database.conftest import StartPooler
from tests.integration.engine.site import Site
from tests.services.broker import BrokerService

pytestmark = [pytest.mark.postgres, pytest.mark.process]

ONE_SERVER = {"default_pool_size": "1"}
"""Every process of a test shares the one server connection, whatever else it is told."""
AS_PACKAGED = pytest.param("transaction", {}, id="as its package has it")
OPTIONS_IGNORED = pytest.param("transaction", {"ignore_startup_parameters": "options"}, id="options ignored")
IN_SESSIONS = pytest.param("session", {"default_pool_size": "20"}, id="session mode")

SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_isolation")
SAID = ["15s", "15s", "5s", "read committed"]


@pytest.fixture
def pooled_url(start_pooler: StartPooler, postgres_url: str, mode: str, options: dict[str, str]) -> str:
    return start_pooler(mode, **ONE_SERVER | options).url(postgres_url)


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Database]:
    made = Database(f"{pooled_url}?options=-csearch_path%3Dshop%5C%20%2Cpublic")
    yield made
    made.dispose()


def shown(name: str) -> str:
    return f"current_setting('{name}')"


@pytest.mark.parametrize(("mode", "options"), [AS_PACKAGED, OPTIONS_IGNORED, IN_SESSIONS])
def test_given_a_pooler_then_each_transaction_has_our_settings_and_those_of_the_url(pooled: Database) -> None:
    every: Any = select(*(literal_column(shown(name)) for name in (*SETTINGS, "search_path")))
    with pooled.read() as connection:
        assert list(connection.execute(every).one()) == [*SAID, "shop ,public"]
    with pooled.transaction() as connection:
        assert list(connection.execute(every).one()) == [*SAID, "shop ,public"]
    statement = Statement(every, is_sqlite=False)
    driver, singles = Driver(pooled), Singles(pooled)
    assert driver.row(statement, {}) == (*SAID, "shop ,public")
    assert singles.rows(statement, {}) == [(*SAID, "shop ,public")]
    driver.close()
    singles.close()
    holder = SessionHolder(pooled)
    assert holder.session.execute(text(f"SELECT {shown(SETTINGS[2])}")).scalar_one() == "10min", "a stage's own session"
    holder.rollback()
    assert pooled.pooled


@pytest.mark.parametrize(("mode", "options"), [AS_PACKAGED, OPTIONS_IGNORED])
def test_given_processes_that_share_a_server_connection_then_each_statement_answers_what_it_asks(
    pooled_url: str,
) -> None:
    processes = [Database(pooled_url) for _ in range(3)]
    drivers = [Driver(database) for database in processes]
    statements = [
        Statement(select(bindparam("given", type_=Integer) + number, literal_column("1")), is_sqlite=False)
        for number in range(6)
    ]
    # Each uses them first in another order, and over and over: psycopg prepares by itself what comes often.
    asked = [
        (driver, number, turn)
        for turn in range(8)
        for place, driver in enumerate(drivers)
        for number in ((place + turn) % 6, (2 * place + turn) % 6)
    ]
    with ThreadPoolExecutor(6) as threads:
        answers = [threads.submit(driver.row, statements[number], {"given": turn}) for driver, number, turn in asked]
        assert [one.result(30) for one in answers] == [(turn + number, 1) for _driver, number, turn in asked]
    for database in processes:
        for _ in range(8):
            with database.transaction() as connection:
                driver_connection = connection.connection.driver_connection
                assert driver_connection is not None
                assert driver_connection.execute("SELECT %s::int + 1", [1]).fetchone() == (2,)
    for driver, database in zip(drivers, processes, strict=True):
        driver.close()
        database.dispose()


def test_given_a_pooler_that_gives_each_statement_another_connection_then_it_is_refused_by_name(
    start_pooler: StartPooler, postgres_url: str
) -> None:
    with pytest.raises(StoreUnavailable, match="statement pooling mode; set the pooler's pool_mode to transaction"):
        upgrade(start_pooler("statement").url(postgres_url))


@pytest.mark.parametrize(("mode", "options"), [AS_PACKAGED])
def test_given_a_pooler_then_doctor_says_that_one_was_met(pooled_url: str, postgres_url: str) -> None:
    for url, said in ((pooled_url, "one is met"), (postgres_url, "none is met")):
        environment = {**os.environ, "STAGEFLOW_DATABASE_URL": url, "STAGEFLOW_BROKER_URL": "memory://"}
        command = [sys.executable, "-m", "stageflow_durable.cli", "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        [check] = [check for check in json.loads(done.stdout) if check["name"] == "pooler"]
        assert check["message"].startswith(said)


def test_given_no_pooler_then_none_is_found_and_statements_are_prepared(postgres_url: str) -> None:
    assert not is_pooled(postgres_url)
    database = Database(postgres_url)
    driver = Driver(database)
    driver.row(Statement(select(literal_column("1", Integer)), is_sqlite=False), {})
    names = Statement(select(column("name")).select_from(text("pg_prepared_statements")), is_sqlite=False)
    assert {row[0][:10] for row in driver.rows(names, {})} == {"stageflow_"}
    driver.close()
    database.dispose()


@pytest.mark.parametrize(("mode", "options"), [AS_PACKAGED, OPTIONS_IGNORED])
def test_given_a_pooler_then_runs_end_as_without_one_and_no_body_is_called_once_more(
    pooled_url: str, tmp_path: Path, valkey: BrokerService
) -> None:
    site = Site(tmp_path, pooled_url, valkey, 63)
    site.open()
    try:
        site.ready(site.worker())
        runs = [site.engine.enqueue("ten", {}) for _ in range(6)]
        failing = [site.engine.enqueue("three", {"fail": {"s2": [2, "error"]}}) for _ in range(3)]
        assert site.at_rest([*runs, *failing]) == {"succeeded": 9}
        bodies = site.ledger.bodies([run.run_id for run in runs])
        assert set(bodies.values()) == {1}
        assert [event.type for run in runs for event in run.history() if "fail" in event.type] == []
    finally:
        site.close()


@pytest.mark.parametrize(("mode", "options"), [AS_PACKAGED, OPTIONS_IGNORED])
def test_given_a_pooler_then_nobody_listens_on_the_database_and_results_are_looked_for(
    pooled_url: str, tmp_path: Path, valkey: BrokerService
) -> None:
    site = Site(tmp_path, pooled_url, valkey, 62)
    site.open()
    engine = site.client(redis_url="off")
    try:
        site.ready(site.worker())
        assert engine.enqueue("one", {}).result(timeout=30)
        run = engine.enqueue("three", {})
        assert run.result(timeout=30)["s3"]["token"]
        facts = engine.store.facts(run.run_id)
        assert facts is not None
        assert facts.awaited_by is None
        assert engine.store.listen("0" * 16) is None
    finally:
        engine.close()
        site.close()
