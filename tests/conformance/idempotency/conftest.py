"""One suite for every store: ``backend`` runs a test on each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakeredis
import pytest

from stageflow_durable.idempotency.memory import MemoryIdempotencyStore
from stageflow_durable.idempotency.redis import RedisIdempotencyStore
from stageflow_durable.idempotency.sql import SqlIdempotencyStore
from stageflow_durable.state.database import Database
from stageflow_durable.state.idempotency_keys import idempotency_keys
from tests.conformance.idempotency.backends import BUSY_SECONDS, Backend, Clock
from tests.services.postgres import PostgresService

BACKENDS = [
    *("memory", "fakeredis", "valkey", "redis", "sqlite", "postgres"),
    pytest.param("unprepared", marks=pytest.mark.postgres),
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """A store of each kind, empty."""
    backend: Backend = request.getfixturevalue(f"{request.param}_backend")
    return backend


@pytest.fixture(params=["valkey", "redis", "sqlite", "postgres"])
def shared_backend(request: pytest.FixtureRequest) -> Backend:
    """A store of each kind that several processes can share, empty, by the real clock."""
    name = {"sqlite": "real_time_sqlite"}.get(request.param, request.param)
    backend: Backend = request.getfixturevalue(f"{name}_backend")
    return backend


@pytest.fixture
def memory_backend() -> Backend:
    clock = Clock()
    return Backend(MemoryIdempotencyStore(clock), clock.advance)


@pytest.fixture
def fakeredis_backend() -> Backend:
    return Backend(RedisIdempotencyStore(fakeredis.FakeRedis(max_connections=1000)))


@pytest.fixture
def valkey_backend(valkey_url: str) -> Iterator[Backend]:
    store = RedisIdempotencyStore(valkey_url, timeout_seconds=BUSY_SECONDS)
    yield Backend(store, url=valkey_url)
    store.close()


@pytest.fixture
def redis_backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    service = request.getfixturevalue("redis_service")
    service.ensure_running()
    url = service.url_of(60)
    with service.client(60) as client:
        client.flushdb()
    store = RedisIdempotencyStore(url, timeout_seconds=BUSY_SECONDS)
    yield Backend(store, url=url)
    store.close()


@pytest.fixture
def sqlite_database(tmp_path: Path) -> Iterator[tuple[Database, Clock]]:
    clock = Clock()
    database = Database(f"sqlite:///{tmp_path / 'keys.db'}", synchronous="NORMAL", clock=clock)
    yield database, clock
    database.dispose()


@pytest.fixture
def sqlite_backend(sqlite_database: tuple[Database, Clock]) -> Backend:
    database, clock = sqlite_database
    return Backend(_created(database), clock.advance)


@pytest.fixture
def real_time_sqlite_backend(sqlite_url: str) -> Iterator[Backend]:
    database = Database(sqlite_url)
    yield Backend(_created(database), url=sqlite_url)
    database.dispose()


@pytest.fixture(scope="session")
def postgres_keys(postgres_service: PostgresService) -> Iterator[str]:
    """A database with the table, for one test after another."""
    url = postgres_service.create_database()
    database = Database(url)
    _created(database)
    database.dispose()
    yield url
    postgres_service.ensure_running()
    postgres_service.drop_database(url)


@pytest.fixture
def postgres_database(postgres: PostgresService, postgres_keys: str) -> Iterator[Database]:
    database = Database(postgres_keys)
    yield database
    database.dispose()
    postgres.ensure_running()
    postgres.disconnect(postgres_keys)  # what a test left open would hold the table
    with database.transaction() as connection:
        connection.execute(idempotency_keys.delete())
    database.dispose()


@pytest.fixture
def postgres_backend(postgres_database: Database) -> Iterator[Backend]:
    url = postgres_database.url.render_as_string(hide_password=False)
    store = SqlIdempotencyStore(postgres_database)
    yield Backend(store, url=url)
    store.close()


@pytest.fixture
def unprepared_backend(postgres_database: Database) -> Iterator[Backend]:
    """PostgreSQL where statements may not be prepared."""
    url = postgres_database.url.render_as_string(hide_password=False)
    store = SqlIdempotencyStore(Database(url, prepares=False))
    yield Backend(store, url=url)
    store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> Database:
    """A database of each kind with the table, empty."""
    if request.param == "postgres":
        found: Database = request.getfixturevalue("postgres_database")
        return found
    lite, _clock = request.getfixturevalue("sqlite_database")
    _created(lite)
    return lite  # type: ignore[no-any-return]  # getfixturevalue is untyped


def _created(database: Database) -> SqlIdempotencyStore:
    store = SqlIdempotencyStore(database)
    store.create()
    return store
