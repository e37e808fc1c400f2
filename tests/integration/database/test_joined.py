"""Runs and signals in a caller's own transaction: there if and only if it commits, and sent after that."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine as Database
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from stageflow_durable import Engine, Pipeline, RetryPolicy, RunStatus, StageContext
from stageflow_durable.errors import (
    ConfigurationError,
    IdempotencyParamMismatch,
    InvalidInput,
    NotAllowed,
    RunBusy,
    StoreUnavailable,
    TransientError,
    UnknownRun,
)
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import joined
from stageflow_durable.testing import engine_for_tests
from tests.services.process import Processes, eventually

ON_POSTGRES = pytest.mark.parametrize("migrated_database_url", ["postgres"], indirect=True)
ON_SQLITE = pytest.mark.parametrize("migrated_database_url", ["sqlite"], indirect=True)
ORDERS: Pipeline[Any, Any] = Pipeline("orders").stage("ship", lambda ctx: 1)
PAID: Pipeline[Any, Any] = Pipeline("paid").wait_for("payment").stage("ship", lambda ctx: 1)


class Sent:
    """A publisher that keeps what it was given. ``depth_of``: how many messages it says wait in each queue."""

    def __init__(self) -> None:
        self.runs: list[str] = []
        self.depth_of = 0

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        self.runs += [nudge.run_id for nudge in nudges]

    def depth(self, queue: str) -> int:
        return self.depth_of

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def engine(migrated_database_url: str, sent: Sent) -> Iterator[Engine]:
    given: Any = {"publisher": sent, "redis_url": "off", "broker_url": "memory://"}
    made = Engine("shop", [ORDERS, PAID], database_url=migrated_database_url, **given)
    yield made
    made.close()


@pytest.fixture
def database(migrated_database_url: str) -> Iterator[Database]:
    """The application's own way to the same database, as SQLAlchemy comes, with a table of the application."""
    made = create_engine(migrated_database_url, connect_args=_patient(migrated_database_url))
    with made.begin() as connection:
        connection.execute(text("CREATE TABLE mine (id integer PRIMARY KEY)"))
    yield made
    made.dispose()


def _patient(url: str) -> dict[str, Any]:
    return {"timeout": 0.2} if url.startswith("sqlite") else {}


def is_there(engine: Engine, run_id: str) -> bool:
    try:
        engine.run(run_id)
    except UnknownRun:
        return False
    return True


def rows(database: Database) -> int:
    with database.connect() as connection:
        return int(connection.execute(text("SELECT count(*) FROM mine")).scalar_one())


def test_the_run_is_there_and_sent_once_the_session_has_committed(
    engine: Engine, database: Database, sent: Sent
) -> None:
    with Session(database) as session:
        session.execute(text("INSERT INTO mine VALUES (1)"))
        first = engine.enqueue(ORDERS, {"n": 1}, idempotency_key="A-1", session=session)
        again = engine.enqueue(ORDERS, {"n": 1}, idempotency_key="A-1", session=session)
        other = engine.enqueue(ORDERS, {"n": 2}, session=session)
        assert (again.run_id, again.replayed, first.replayed) == (first.run_id, True, False)
        assert not is_there(engine, first.run_id)
        assert sent.runs == []
        session.commit()
        assert sent.runs == [first.run_id, other.run_id]
        session.execute(text("INSERT INTO mine VALUES (2)"))
        session.commit()
    assert sent.runs == [first.run_id, other.run_id]
    assert is_there(engine, first.run_id)
    assert rows(database) == 2


def test_the_run_is_there_and_sent_once_the_connection_has_committed(
    engine: Engine, database: Database, sent: Sent
) -> None:
    with database.connect() as connection:
        for _time in range(2):
            run = engine.enqueue(ORDERS, {}, connection=connection)
            assert run.run_id not in sent.runs
            connection.commit()
            eventually(lambda run=run: run.run_id in sent.runs, within=5)  # type: ignore[misc]  # bound now
            assert is_there(engine, run.run_id)


def test_a_session_of_a_thread_is_a_session(engine: Engine, database: Database, sent: Sent) -> None:
    sessions = scoped_session(sessionmaker(database))
    run = engine.enqueue(ORDERS, {}, session=sessions)
    sessions.commit()
    assert sent.runs == [run.run_id]
    sessions.remove()


def test_a_session_within_a_connections_transaction_commits_with_that(
    engine: Engine, database: Database, sent: Sent
) -> None:
    with database.connect() as connection, connection.begin() as outer:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            run = engine.enqueue(ORDERS, {}, session=session)
            session.commit()
        assert sent.runs == []
        outer.commit()
    eventually(lambda: sent.runs == [run.run_id], within=5)


@pytest.mark.parametrize("ends", ["rollback", "close", "error"])
def test_what_is_rolled_back_was_never_enqueued(engine: Engine, database: Database, sent: Sent, ends: str) -> None:
    with suppress(ZeroDivisionError), Session(database) as session:
        run = engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=session)
        if ends == "rollback":
            session.rollback()
            session.commit()
        if ends == "error":
            raise ZeroDivisionError
    assert not is_there(engine, run.run_id)
    assert sent.runs == []
    assert not engine.enqueue(ORDERS, {"n": 2}, idempotency_key="A-1").replayed


def test_a_savepoint_that_is_rolled_back_means_no_run(engine: Engine, database: Database, sent: Sent) -> None:
    with Session(database) as session:
        kept = engine.enqueue(ORDERS, {}, session=session)
        with session.begin_nested() as savepoint:
            gone = engine.enqueue(ORDERS, {}, session=session)
            savepoint.rollback()
        session.commit()
    assert (is_there(engine, kept.run_id), is_there(engine, gone.run_id)) == (True, False)
    assert sent.runs == [kept.run_id]


def test_a_refusal_leaves_the_transaction_usable(engine: Engine, database: Database, sent: Sent) -> None:
    engine.enqueue(ORDERS, {"n": 1}, idempotency_key="A-1")
    sent.runs.clear()
    with Session(database) as session:
        session.execute(text("INSERT INTO mine VALUES (1)"))
        with pytest.raises(IdempotencyParamMismatch, match="n"):
            engine.enqueue(ORDERS, {"n": 2}, idempotency_key="A-1", session=session)
        with pytest.raises(InvalidInput, match="priority"):
            engine.enqueue(ORDERS, {"n": 2}, priority=77, session=session)
        assert engine.enqueue(ORDERS, {"n": 1}, idempotency_key="A-1", session=session).replayed
        session.commit()
    assert rows(database) == 1
    assert sent.runs == []


@ON_POSTGRES
def test_a_commit_that_fails_sends_nothing(engine: Engine, database: Database, sent: Sent) -> None:
    with database.begin() as connection:
        connection.execute(
            text("CREATE TABLE late (n integer, CONSTRAINT one UNIQUE (n) DEFERRABLE INITIALLY DEFERRED)")
        )
    with database.connect() as connection:
        connection.execute(text("INSERT INTO late VALUES (1), (1)"))
        run = engine.enqueue(ORDERS, {}, connection=connection)
        with pytest.raises(IntegrityError):
            connection.commit()
    eventually(lambda: not _after_commit_threads(), within=5)
    assert sent.runs == []
    assert not is_there(engine, run.run_id)


def _after_commit_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "stageflow-after-commit"]


# --- others at the same time ------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bound, shorter."""
    monkeypatch.setattr(joined, "_BOUND", joined._BOUND.replace("'5s'", "'300ms'").replace("AND 5", "AND 0.3"))


def test_a_duplicate_waits_for_who_was_first_and_not_for_ever(
    engine: Engine, database: Database, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    with Session(database) as first, Session(database) as second:
        run = engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=first)
        with pytest.raises(RunBusy, match="with this key|write lock"):
            engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=second)
        assert second.execute(text("SELECT 1")).scalar() == 1
        second.rollback()  # on SQLite it has begun to read
        monkeypatch.undo()
        if database.dialect.name == "sqlite":
            second.connection().exec_driver_sql("PRAGMA busy_timeout = 5000")
        timer = threading.Timer(0.1, first.commit)
        timer.start()
        again = engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=second)
        timer.join()
        second.commit()
    assert (again.run_id, again.replayed) == (run.run_id, True)


@pytest.mark.usefixtures("impatient")
@ON_POSTGRES
def test_no_row_of_another_run_is_locked_and_settings_are_as_they_were(
    engine: Engine, database: Database, sent: Sent
) -> None:
    other = engine.enqueue(PAID, {}, idempotency_key="A-0")
    with Session(database) as session, database.connect() as beside:
        session.execute(text("SET LOCAL lock_timeout = '7s'"))
        engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=session)
        assert session.execute(text("SHOW lock_timeout")).scalar() == "7s"
        found = beside.execute(text("SELECT id FROM stageflow_runs FOR UPDATE NOWAIT")).scalars().all()
        assert found == [other.run_id]
        beside.rollback()
        session.execute(text("SET LOCAL lock_timeout = '50ms'"))  # whoever is less patient stays so
        engine.signal(other.run_id, "payment", connection=beside)
        with pytest.raises(RunBusy):
            engine.signal(other.run_id, "payment", session=session)
        assert session.execute(text("SHOW lock_timeout")).scalar() == "50ms"


@ON_POSTGRES
def test_a_transaction_that_sees_the_past_is_told_to_begin_again(engine: Engine, database: Database) -> None:
    snapshot = database.execution_options(isolation_level="REPEATABLE READ")
    with Session(snapshot) as session:
        session.execute(text("SELECT 1 FROM mine"))
        engine.enqueue(ORDERS, {}, idempotency_key="A-1")
        with pytest.raises(RunBusy, match="begin again"):
            engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=session)
        session.rollback()
        assert engine.enqueue(ORDERS, {}, idempotency_key="A-1", session=session).replayed


@ON_SQLITE
def test_who_cannot_get_the_write_lock_of_sqlite_is_told_so(engine: Engine, database: Database) -> None:
    with database.connect() as writer, Session(database) as session:
        writer.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(RunBusy, match="write lock"):
            engine.enqueue(ORDERS, {}, session=session)
        writer.rollback()
        session.connection().exec_driver_sql("BEGIN")
        session.execute(text("SELECT * FROM mine")).all()  # a snapshot of before what comes now
        writer.execute(text("INSERT INTO mine VALUES (1)"))
        writer.commit()
        with pytest.raises(RunBusy, match="BEGIN IMMEDIATE"):
            engine.enqueue(ORDERS, {}, session=session)
        session.rollback()
        run = engine.enqueue(ORDERS, {}, session=session)
        session.commit()
    assert is_there(engine, run.run_id)


# --- signals ----------------------------------------------------------------------------------------------------------


def test_a_signal_counts_once_its_transaction_has_committed(engine: Engine, database: Database, sent: Sent) -> None:
    run = engine.enqueue(PAID, {})
    with Session(database) as session:
        engine.signal(run.run_id, "payment", {"cents": 1}, session=session)
        session.rollback()
        receipt = engine.signal(run.run_id, "payment", {"cents": 2}, idempotency_key="P-1", session=session)
        assert not receipt.replayed
        with pytest.raises(NotAllowed):
            engine.signal(run.run_id, "payment", {"cents": 3}, session=session)
        session.commit()
    again = engine.signal(run.run_id, "payment", {"cents": 2}, idempotency_key="P-1")
    assert again.replayed


def test_a_run_and_its_signal_commit_together(engine: Engine, database: Database, sent: Sent) -> None:
    with Session(database) as session:
        run = engine.enqueue(PAID, {}, session=session)
        engine.signal(run.run_id, "payment", session=session)
        session.commit()
    assert [event.type for event in engine.history(run.run_id)][:2] == ["run.accepted", "signal.received"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_connection_that_commits_by_itself_is_refused(engine: Engine, database: Database) -> None:
    with database.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        with pytest.raises(ConfigurationError, match="autocommit"):
            engine.enqueue(ORDERS, {}, connection=connection)
        with pytest.raises(ConfigurationError, match="not both"):
            engine.enqueue(ORDERS, {}, connection=connection, session=Session(database))
    given: Any = database
    with pytest.raises(ConfigurationError, match="not Engine"):
        engine.enqueue(ORDERS, {}, connection=given)
    with pytest.raises(ConfigurationError, match="not Engine"):
        engine.enqueue(ORDERS, {}, session=given)
    assert engine.runs() == []


@pytest.mark.parametrize("other", ["sqlite", "postgres"])
def test_a_transaction_on_another_database_is_refused(
    engine: Engine, database: Database, tmp_path: Path, request: pytest.FixtureRequest, other: str
) -> None:
    url = f"sqlite:///{tmp_path / 'other.db'}" if other == "sqlite" else request.getfixturevalue("postgres_url")
    theirs = create_engine(url)
    says = {"sqlite": r"other\.db|on SQLite", "postgres": "on PostgreSQL|no tables of the engine"}
    with theirs.connect() as connection, pytest.raises(ConfigurationError, match=says[other]):
        engine.enqueue(ORDERS, {}, connection=connection)
    theirs.dispose()


@ON_POSTGRES
def test_a_search_path_to_other_tables_is_refused(engine: Engine, database: Database) -> None:
    with database.begin() as connection:
        connection.execute(text("CREATE SCHEMA other"))
        connection.execute(text("CREATE TABLE other.stageflow_runs (LIKE public.stageflow_runs)"))
        connection.execute(text("SET LOCAL search_path = other, public"))
        with pytest.raises(ConfigurationError, match="search_path"):
            engine.enqueue(ORDERS, {}, connection=connection)
        connection.execute(text("SET LOCAL search_path = other"))
        connection.execute(text("DROP TABLE other.stageflow_runs"))
        with pytest.raises(ConfigurationError, match="no tables of the engine"):
            engine.enqueue(ORDERS, {}, connection=connection)


@ON_SQLITE
def test_a_store_in_memory_takes_part_in_nothing(database: Database) -> None:
    refused = pytest.raises(ConfigurationError, match="in memory")
    with engine_for_tests([ORDERS], store="memory") as tested, Session(database) as session, refused:
        tested.enqueue("orders", {}, session=session)


# --- processes that die -----------------------------------------------------------------------------------------------

TIME_PASSES = text("UPDATE stageflow_strands SET published_at = published_at - 60")

DIES = """
import os, sys
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from tests.integration.database.test_joined import ORDERS, PAID, Engine, Sent
class Dying(Sent):
    def publish(self, nudges, delay=0.0):
        os._exit(9)
engine = Engine("shop", [ORDERS, PAID], database_url=sys.argv[1], publisher=Dying(), redis_url="off", broker_url="memory://")
with Session(create_engine(sys.argv[1])) as session:
    engine.enqueue("orders", {}, idempotency_key="A-1", session=session)
    session.commit()
"""


@pytest.mark.process
def test_of_a_process_that_dies_after_its_commit_the_sweep_finds_the_run(
    engine: Engine, database: Database, migrated_database_url: str, sent: Sent, processes: Processes
) -> None:
    process = processes.start("dying", [sys.executable, "-c", DIES, migrated_database_url])
    assert process.wait(30) == 9
    with database.begin() as connection:
        connection.execute(TIME_PASSES)
    assert engine.sweep().nudged == 1
    assert sent.runs == [run.run_id for run in engine.runs()]


def test_of_a_commit_that_comes_late_the_sweep_finds_a_lost_message_at_once(
    engine: Engine, database: Database, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(database) as session:
        run = engine.enqueue(ORDERS, {}, session=session)
        session.execute(TIME_PASSES)
        monkeypatch.setattr(engine.store, "stand", _away)
        session.commit()
    monkeypatch.undo()
    assert sent.runs == []
    engine.sweep()
    assert sent.runs == [run.run_id]


def _away(*_given: object) -> Any:
    raise StoreUnavailable("the database did not answer")


# --- async ------------------------------------------------------------------------------------------------------------

ASYNC = {"postgresql": ("postgresql+psycopg_async", "postgresql+asyncpg"), "sqlite": ("sqlite+aiosqlite",)}


def test_async_sessions_and_connections_take_part_in_the_twins(
    engine: Engine, database: Database, migrated_database_url: str, sent: Sent
) -> None:
    scheme = migrated_database_url.partition("://")[0]

    async def with_(driver: str) -> None:
        theirs = create_async_engine(migrated_database_url.replace(scheme, driver, 1))
        async with AsyncSession(theirs) as session:
            run = await engine.aenqueue(PAID, {}, idempotency_key=driver, session=session)
            await engine.asignal(run.run_id, "payment", {"by": driver}, session=session)
            with pytest.raises(IdempotencyParamMismatch):
                await engine.aenqueue(PAID, {"n": 2}, idempotency_key=driver, session=session)
            with pytest.raises(ConfigurationError, match="aenqueue"):
                engine.enqueue(PAID, {}, session=session)
            assert run.run_id not in sent.runs
            await session.commit()
            await _until(lambda: run.run_id in sent.runs)
            gone = await engine.aenqueue(ORDERS, {}, session=session)
            await session.rollback()
        async with theirs.connect() as connection:
            kept = await engine.aenqueue(ORDERS, {}, connection=connection)
            await connection.commit()
            await _until(lambda: kept.run_id in sent.runs)
        assert (is_there(engine, gone.run_id), is_there(engine, kept.run_id)) == (False, True)
        await theirs.dispose()

    for driver in ASYNC[database.dialect.name]:
        asyncio.run(with_(driver))


async def _until(said: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not said():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.005)


@ON_POSTGRES
def test_psycopg_2_takes_part(engine: Engine, migrated_database_url: str, sent: Sent) -> None:
    theirs = create_engine(migrated_database_url.replace("+psycopg", "+psycopg2", 1))
    with Session(theirs) as session:
        run = engine.enqueue(PAID, {"n": 1}, idempotency_key="A-1", session=session)
        engine.signal(run.run_id, "payment", session=session)
        session.commit()
    theirs.dispose()
    assert sent.runs[0] == run.run_id


def test_a_stage_starts_a_run_in_its_own_transaction(migrated_database_url: str, sent: Sent) -> None:
    def body(ctx: StageContext[Any]) -> dict[str, str]:
        child = tested.enqueue(ORDERS, {}, idempotency_key="child", session=ctx.session)
        if ctx.attempt == 1:
            raise TransientError(child.run_id)
        return {"child": child.run_id}

    parent: Pipeline[Any, Any] = Pipeline("parent").stage("start", body, retry=RetryPolicy(base_delay=0.01))
    with engine_for_tests([parent, ORDERS], database_url=migrated_database_url) as tested:
        run = tested.enqueue(parent, {})
        tested.drain()
        child = run.result(0)["start"]["child"]
        eventually(lambda: not _after_commit_threads(), within=5)
        tested.drain()
        assert tested.handle(child).status() is RunStatus.SUCCEEDED
        assert len(tested.runs(pipeline="orders")) == 1
