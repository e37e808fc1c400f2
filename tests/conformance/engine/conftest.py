"""The engine's semantics on each database, decided at once and under the lock, watched at every transaction."""

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
from stageflow_durable.testing import FakeClock, InProcessEngine, Point, engine_for_tests
from tests.conformance.engine.acts import Acts
from tests.protocol.invariants import Watch
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


# Under the lock PostgreSQL does all but the plain case anyway; ``test_crashes`` does nothing else.
WAYS = [("sqlite", True), ("sqlite", False), ("postgres", True)]


@pytest.fixture(params=WAYS, ids=lambda way: f"{way[0]}-{'optimistic' if way[1] else 'locked'}")
def way(request: pytest.FixtureRequest) -> tuple[str, bool]:
    """A database, and whether transactions may be decided without the lock: all have to come to the same."""
    kind, optimistic = request.param
    return str(request.getfixturevalue(f"{kind}_url")), optimistic


@pytest.fixture
def database_url(way: tuple[str, bool]) -> str:
    """The migrated, empty database of this test."""
    return way[0]


@pytest.fixture
def watch(database_url: str, clock: FakeClock) -> Iterator[Watch]:
    """Checks the protocol's invariants; see :mod:`tests.protocol.invariants`."""
    database = Database(database_url, clock=clock.time)
    yield Watch(database, AUDIT_KEY.encode())
    database.dispose()


@pytest.fixture
def make_engine(way: tuple[str, bool], clock: FakeClock, watch: Watch) -> Iterator[MakeEngine]:
    """Makes engines on this test's database; after each of their transactions every invariant has to hold."""

    def check(point: Point) -> None:
        if point.when == "after" and point.call not in NO_RUNS:
            watch.check()

    with ExitStack() as stack:
        made: list[InProcessEngine] = []

        def make(*pipelines: Pipeline[Any, Any], **options: Any) -> InProcessEngine:
            given: dict[str, Any] = {
                "database_url": way[0],
                "optimistic": way[1],
                "clock": clock,
                "audit_key": AUDIT_KEY,
            } | options
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
