"""Statements below psycopg's cursors, and servers that say nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    insert,
    select,
    text,
    update,
)

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state import bounded, postgres_protocol
from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.pool import Own
from stageflow_durable.state.postgres_protocol import ServerStatement
from stageflow_durable.state.session import SessionHolder
from tests.services.process import eventually

pytestmark = pytest.mark.postgres

THINGS = Table(
    "things",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(255)),
    Column("weight", Double),
    Column("good", Boolean),
)
COLUMNS = ("id", "name", "weight", "good")
ADD = insert(THINGS).from_select(list(COLUMNS), select(*(bindparam(n, type_=THINGS.c[n].type) for n in COLUMNS)))
RENAME = update(THINGS).where(THINGS.c.id == bindparam("which", type_=Integer)).values(name=bindparam("new", "untold"))


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    made = Database(postgres_url)
    with made.transaction() as connection:
        THINGS.create(connection)
    yield made
    made.dispose()


@pytest.fixture(params=[True, False], ids=["prepared", "by cursors"])
def driver(database: Database, request: pytest.FixtureRequest) -> Iterator[Driver]:
    made = Driver(database, prepares=request.param)
    yield made
    made.close()


def stored(database: Database) -> list[tuple[object, ...]]:
    with database.read() as connection:
        return [tuple(row) for row in connection.execute(select(THINGS).order_by(THINGS.c.id))]


def test_given_values_of_every_type_when_sent_then_the_database_has_them_exactly(
    driver: Driver, database: Database
) -> None:
    add = Statement(ADD, is_sqlite=False)
    things = [
        (1, "plain", 0.1, True),
        (-2147483648, "ünïcode 🎉 'quoted' \\ %s $1", 1764026692.123456, False),
        (3, "", -0.0, True),
        (4, None, None, None),
        (2147483647, "x" * 100, 1e300, False),
    ]
    for thing in things:
        assert driver.touched(add, dict(zip(COLUMNS, thing, strict=True)))
    assert stored(database) == sorted(things, key=lambda thing: thing[0])


def test_given_an_update_when_no_row_matches_then_nothing_was_touched(driver: Driver, database: Database) -> None:
    driver.touched(Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "a", 1.0, True), strict=True)))
    rename = Statement(RENAME, is_sqlite=False)
    assert not driver.touched(rename, {"which": 2, "new": "b"})
    assert driver.touched(rename, {"which": 1, "new": "b"})
    assert driver.touched(rename, {"which": 1}), "a parameter that is not given keeps the value it was written with"
    assert stored(database) == [(1, "untold", 1.0, True)]


def test_given_a_megabyte_when_sent_then_it_arrives_whole(driver: Driver, database: Database) -> None:
    with database.transaction() as connection:
        connection.execute(text("ALTER TABLE things ALTER COLUMN name TYPE text"))
    huge = "0123456789abcdef" * 1_000_000  # more than a socket takes at once
    assert driver.touched(Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, huge, 1.0, True), strict=True)))
    assert stored(database)[0][1] == huge


def test_given_a_nul_when_sent_then_it_is_refused_and_not_cut_off(driver: Driver, database: Database) -> None:
    with pytest.raises(Exception, match="NUL"):
        driver.touched(Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "a\0b", 1.0, True), strict=True)))
    assert stored(database) == []


def test_given_text_beyond_ascii_when_the_environment_names_another_encoding_then_it_is_stored_as_it_was(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    database.dispose()
    driver = Driver(database)
    assert driver.touched(Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "é€", 1.0, True), strict=True)))
    monkeypatch.delenv("PGCLIENTENCODING")
    driver.close()
    database.dispose()
    assert stored(database)[0][1] == "é€"


class Interrupted(BaseException):
    """What a timeout or Ctrl-C raises in the middle of a statement."""


class OutOfTime(Exception):
    """What Celery's soft time limit raises in the middle of a statement."""


@contextmanager
def interrupted_by(error: type[BaseException]) -> Iterator[None]:
    """In a fifth of a second."""

    def interrupt(_number: int, _frame: object) -> None:
        raise error

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(error):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_given_a_statement_that_was_interrupted_when_another_follows_then_it_goes_over_a_new_connection(
    driver: Driver, database: Database
) -> None:
    add, thing = Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "a", 1.0, True), strict=True))
    with interrupted_by(Interrupted):
        driver.touched(Statement(select(text("pg_sleep(5)")), is_sqlite=False), {})
    assert driver.touched(add, thing)
    assert stored(database) == [(1, "a", 1.0, True)]


@pytest.mark.parametrize("error", [Interrupted, OutOfTime])
@pytest.mark.parametrize("beneath", [False, True], ids=["by SQLAlchemy", "beneath it"])
def test_given_a_transaction_that_was_interrupted_then_what_interrupted_it_is_raised_and_the_next_goes_on(
    database: Database, error: type[BaseException], beneath: bool
) -> None:
    def wait(connection: Connection) -> None:
        driver: Any = connection.connection.driver_connection
        if beneath:
            driver.execute("SELECT pg_sleep(5)")
        else:
            connection.execute(text("SELECT pg_sleep(5)"))

    with interrupted_by(error), database.transaction() as connection:
        wait(connection)
    with interrupted_by(error), database.read() as connection:
        wait(connection)
    holder = SessionHolder(database)
    with interrupted_by(error):
        holder.write(wait)
    holder.rollback()
    assert stored(database) == []


def test_given_an_error_of_the_database_then_it_has_its_type_and_the_next_statement_works(
    driver: Driver, database: Database
) -> None:
    from sqlalchemy.exc import IntegrityError

    add, thing = Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "a", 1.0, True), strict=True))
    driver.touched(add, thing)
    with pytest.raises(IntegrityError):
        driver.touched(add, thing)
    assert driver.touched(add, {**thing, "id": 2})


def test_given_a_connection_that_the_server_ended_when_a_statement_follows_then_it_goes_over_a_new_one(
    driver: Driver, database: Database
) -> None:
    add, thing = Statement(ADD, is_sqlite=False), dict(zip(COLUMNS, (1, "a", 1.0, True), strict=True))
    driver.touched(add, thing)
    end(driver)
    assert driver.touched(add, {**thing, "id": 2})


def kept(driver: Driver) -> Own:
    """The connection that the driver's next statement goes over."""
    return driver._connections._kept[-1]


def end(driver: Driver) -> None:
    """End the server's side of the driver's connection, and wait until its socket knows."""
    held = kept(driver)
    with psycopg.connect(driver.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (held.connection.info.backend_pid,))
    eventually(lambda: not held.usable, what="its socket knows")


def sleeps(database: Database) -> bool:
    """Whether a statement of somebody sleeps in the server."""
    with psycopg.connect(database.url.render_as_string(hide_password=False).replace("+psycopg", "")) as other:
        looked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"
        found = other.execute(looked).fetchone()
        return found is not None and found[0] == 1


def test_given_a_driver_that_is_closed_while_a_statement_runs_then_the_statement_ends_and_the_connection_is_closed(
    database: Database,
) -> None:
    driver = Driver(database)
    slow = Statement(select(text("pg_sleep(0.5)")), is_sqlite=False)
    driver.touched(Statement(RENAME, is_sqlite=False), {"which": 1})
    connection = kept(driver).connection
    thread = threading.Thread(target=driver.touched, args=(slow, {}))
    thread.start()
    eventually(lambda: sleeps(database), what="the statement runs")
    driver.close()
    assert not connection.closed, "its statement runs"
    thread.join()
    assert connection.closed


# --- a server that says nothing --------------------------------------------------------------------------------------


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A server process that stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (bounded, postgres_protocol):
        monkeypatch.setattr(module, "ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(bounded.connection_class(), "answer_seconds", 0.4)
    monkeypatch.setattr("stageflow_durable.state.database.ANSWER_SECONDS", 0.4)


@pytest.mark.usefixtures("impatient")
def test_given_a_server_process_that_stands_still_when_a_statement_is_sent_then_it_fails_in_bounded_time(
    driver: Driver,
) -> None:
    rename = Statement(RENAME, is_sqlite=False)
    driver.touched(rename, {"which": 1})
    began = time.monotonic()
    with (
        stopped(kept(driver).connection.info.backend_pid),
        pytest.raises(StoreUnavailable, match="the server said nothing"),
    ):
        driver.touched(rename, {"which": 1})
    assert time.monotonic() - began < 5
    assert not driver.touched(rename, {"which": 1}), "over a new connection, which answers"


@pytest.mark.usefixtures("impatient")
def test_given_a_server_process_that_stands_still_when_a_transaction_goes_on_then_it_fails_in_bounded_time(
    database: Database,
) -> None:
    def work() -> None:
        with database.transaction() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with stopped(pid):
                connection.execute(text("SELECT 1"))

    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="the server said nothing"):
        work()
    assert time.monotonic() - began < 5
    assert stored(database) == []


@pytest.mark.usefixtures("impatient")
def test_given_a_server_that_is_only_slow_then_a_session_of_a_stage_waits_for_it(database: Database) -> None:
    from stageflow_durable.state.session import SessionHolder

    holder = SessionHolder(database)
    assert holder.session.execute(text("SELECT 1 FROM pg_sleep(1)")).scalar_one() == 1
    holder.rollback()


def test_a_statement_has_the_same_name_in_every_process_and_no_other_statement_has_it() -> None:
    same, other = ServerStatement(RENAME), ServerStatement(RENAME.where(THINGS.c.good))
    assert ServerStatement(RENAME).name == same.name != other.name
    assert len(same.name) < 64, "what is longer PostgreSQL cuts off"
    as_number = ServerStatement(select(bindparam("given", type_=Integer)))
    assert as_number.name != ServerStatement(select(bindparam("given", type_=Double))).name, "types are part of it"
