"""The engine's semantics on each store, decided at once and under the lock, watched at every transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.state import driver
from stageflow_durable.state.database import Database
from stageflow_durable.state.metadata import metadata
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.testing import FakeClock, InProcessEngine, Point, engine_for_tests
from tests.conformance.engine.acts import Acts
from tests.protocol.invariants import SeenInMemory, SeenInSql, Watch
from tests.services.postgres import PostgresService

MakeEngine = Callable[..., InProcessEngine]

AUDIT_KEY = "the audit key of these tests"

NO_RUNS = frozenset(
    {"register", "join", "renew", "retire", "mark_killed", "mark_expired", "my_tick", "publish", "claim_key"}
    | {"clock", "close"}
)
"""Calls that touch no run: nothing new to check after them."""

# PostgreSQL's clock stands still as well: a function of that name, found before the real one.
STANDING_CLOCK = """
CREATE SCHEMA sim;
CREATE TABLE sim.clock (at double precision NOT NULL);
INSERT INTO sim.clock VALUES (0);
CREATE FUNCTION sim.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS 'SELECT to_timestamp(at) FROM sim.clock';
"""

END_THE_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
def sqlite_url(migrated_sqlite_url: str) -> str:
    """A migrated SQLite database of this test's own."""
    return migrated_sqlite_url


@pytest.fixture(scope="session")
def standing_postgres(postgres_service: PostgresService, migrated_postgres: str) -> Iterator[str]:
    """A migrated PostgreSQL database whose clock stands still, for one test after another."""
    url = postgres_service.create_database(migrated_postgres)
    with psycopg.connect(_plain(url), autocommit=True) as connection:
        connection.execute(STANDING_CLOCK)
        connection.execute(f'ALTER DATABASE "{connection.info.dbname}" SET search_path = sim, public, pg_catalog')
    yield url
    postgres_service.drop_database(url)


def _plain(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://")


@pytest.fixture
def postgres_url(standing_postgres: str, clock: FakeClock) -> Iterator[str]:
    """The migrated PostgreSQL database, empty and with this test's ``clock``."""
    with psycopg.connect(_plain(standing_postgres), autocommit=True) as connection:

        def set_clock(now: float) -> None:
            connection.execute("UPDATE sim.clock SET at = %s", (now,))

        set_clock(clock.time())
        clock.moved = set_clock
        yield standing_postgres
        connection.execute(END_THE_OTHERS)  # a test that failed may have left a transaction open
        connection.execute("; ".join(f"DELETE FROM public.{table.name}" for table in reversed(metadata.sorted_tables)))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The one clock of the test: the engine's, the database's and its driver's."""
    made = FakeClock()
    monkeypatch.setattr(driver, "time", SimpleNamespace(monotonic=made.monotonic))
    return made


# Under the lock PostgreSQL does all but the plain case anyway.
SQL_WAYS = [("sqlite", True), ("sqlite", False), ("postgres", True)]
WAYS = [("memory", False), *SQL_WAYS]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On each store, and with and without deciding before the lock; what looks into SQL (``sql``) only there."""
    if "way" in metafunc.fixturenames:
        ways = WAYS if metafunc.definition.get_closest_marker("sql") is None else SQL_WAYS
        metafunc.parametrize("way", ways, indirect=True, ids=lambda way: f"{way[0]}-{_DECIDES[way[1]]}")


_DECIDES = {True: "optimistic", False: "locked"}


@pytest.fixture
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """A store, and whether transactions may be decided without the lock: all have to come to the same."""
    kind, optimistic = request.param
    return ("memory" if kind == "memory" else str(request.getfixturevalue(f"{kind}_url"))), optimistic


@pytest.fixture
def database_url(way: tuple[str, bool]) -> str:
    """The migrated, empty database of this test, which is marked ``sql``."""
    assert way[0] != "memory", "a test that asks for the database is marked sql"
    return way[0]


@pytest.fixture
def memory(clock: FakeClock) -> MemoryStore:
    """The empty store in memory of this test: all its engines share it."""
    return MemoryStore(AUDIT_KEY.encode(), clock=clock.time)


@pytest.fixture
def watch(way: tuple[str, bool], clock: FakeClock, memory: MemoryStore) -> Iterator[Watch]:
    """Checks the protocol's invariants; see :mod:`tests.protocol.invariants`."""
    if way[0] == "memory":
        yield Watch(SeenInMemory(memory._tables), AUDIT_KEY.encode())
        return
    database = Database(way[0], clock=clock.time)
    yield Watch(SeenInSql(database), AUDIT_KEY.encode())
    database.dispose()


@pytest.fixture
def make_engine(way: tuple[str, bool], clock: FakeClock, watch: Watch, memory: MemoryStore) -> Iterator[MakeEngine]:
    """Makes engines on this test's database; after each of their transactions every invariant has to hold."""

    def check(point: Point) -> None:
        if point.when == "after" and point.call not in NO_RUNS:
            watch.check()

    with ExitStack() as stack:
        made: list[InProcessEngine] = []

        def make(*pipelines: Pipeline[Any, Any], **options: Any) -> InProcessEngine:
            where = {"store": memory} if way[0] == "memory" else {"database_url": way[0]}
            common = {"optimistic": way[1], "clock": clock, "audit_key": AUDIT_KEY}
            given: dict[str, Any] = {**where, **common, **options}
            engine = stack.enter_context(engine_for_tests(pipelines, **given))
            engine.faults.watch = check
            made.append(engine)
            return engine

        yield make
        watch.check()
        assert [problem for engine in made for problem in engine.problems] == []


@pytest.fixture
def acts() -> Acts:
    """What this test's stages do and did."""
    return Acts()
