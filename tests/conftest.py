"""Services and settings that every test can ask for.

``database_url`` runs a test once on SQLite and once on PostgreSQL; ``broker`` once on Valkey and once on Redis. A
service that cannot be started skips the test with the reason, or fails it when ``STAGEFLOW_REQUIRE_SERVICES=1`` or
``CI`` is set.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine

from stageflow_durable.state.schema import upgrade
from tests.order import arrange
from tests.services.broker import DATABASES, BrokerService
from tests.services.compiled import sharing
from tests.services.missing import ServiceMissing, missing
from tests.services.postgres import PostgresService
from tests.services.process import Processes

_BROKERS: dict[str, Callable[[], BrokerService]] = {"valkey": BrokerService.valkey, "redis": BrokerService.redis}
# Where a browser and its driver are: `make test-browser`.
collect_ignore = [] if os.environ.get("STAGEFLOW_TEST_BROWSER") else ["browser"]
_MARKERS = {"postgres": "postgres", "valkey": "redis", "redis": "redis"}
# Redis is used as well where it is found; everything holds without it.
_OPTIONAL = {"redis"}


def pytest_configure() -> None:
    """Let SIGTERM end the session through its clean-up, as Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # Started in the background of a shell: the programs under test would inherit a Ctrl-C that does nothing.
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupt(number: int, frame: object) -> None:
    pytest.exit(f"ended by signal {number}", returncode=128 + number)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services they ask for (``-m "not postgres"`` runs those that need none), and arrange them."""
    for item in items:
        if isinstance(item, pytest.Function):
            for service in _services_of(item):
                item.add_marker(_MARKERS[service])
    arrange(items)


def _services_of(test: pytest.Function) -> set[str]:
    chosen = test.callspec.params.values() if hasattr(test, "callspec") else ()
    return _MARKERS.keys() & {*test.fixturenames, *(value for value in chosen if isinstance(value, str))}


@pytest.fixture(autouse=True)
def _no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the shell it was started from."""
    kept = ("STAGEFLOW_TEST_", "STAGEFLOW_REQUIRE_SERVICES")
    for name in [name for name in os.environ if name.startswith("STAGEFLOW_") and not name.startswith(kept)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session", autouse=True)
def _compiled_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stageflow_durable.state.database.create_engine", sharing(create_engine))
        yield


@pytest.fixture(scope="session")
def postgres_service() -> Iterator[PostgresService]:
    """The session's PostgreSQL; tests ask for ``postgres``, which mends it first."""
    try:
        service = PostgresService.found()
    except ServiceMissing as reason:
        missing(reason)
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture
def postgres(postgres_service: PostgresService) -> PostgresService:
    """A PostgreSQL that runs, whatever the test before did to it."""
    postgres_service.ensure_running()
    return postgres_service


@pytest.fixture
def postgres_url(postgres: PostgresService) -> Iterator[str]:
    """An empty PostgreSQL database of this test's own."""
    url = postgres.create_database()
    yield url
    postgres.ensure_running()
    postgres.drop_database(url)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """An empty SQLite database of this test's own."""
    return f"sqlite:///{tmp_path / 'stageflow.db'}"


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A migrated, empty file, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "empty.db"
    upgrade(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture(scope="session")
def migrated_postgres(postgres_service: PostgresService) -> str:
    """A migrated, empty database, to be copied."""
    postgres_service.ensure_running()
    url = postgres_service.create_database()
    upgrade(url)
    return url


@pytest.fixture
def migrated_postgres_url(postgres: PostgresService, migrated_postgres: str) -> Iterator[str]:
    """A migrated PostgreSQL database of this test's own."""
    url = postgres.create_database(migrated_postgres)
    yield url
    postgres.ensure_running()
    postgres.drop_database(url)


@pytest.fixture
def migrated_sqlite_url(tmp_path: Path, migrated_sqlite: bytes) -> str:
    """A migrated SQLite database of this test's own."""
    path = tmp_path / "stageflow.db"
    path.write_bytes(migrated_sqlite)
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "postgres"])
def migrated_database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of this test's own, once of each kind."""
    return str(request.getfixturevalue(f"migrated_{request.param}_url"))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """An empty database of this test's own, once of each kind."""
    return str(request.getfixturevalue(f"{request.param}_url"))


def _session_broker(name: str) -> Iterator[BrokerService]:
    try:
        service = _BROKERS[name]()
    except ServiceMissing as reason:
        if name in _OPTIONAL:
            pytest.skip(str(reason))
        missing(reason)
    try:
        service.start()
        yield service
    finally:
        service.close()


@pytest.fixture(scope="session")
def valkey_service() -> Iterator[BrokerService]:
    """The session's Valkey; tests ask for ``valkey``, which mends it first."""
    yield from _session_broker("valkey")


@pytest.fixture(scope="session")
def redis_service() -> Iterator[BrokerService]:
    """The session's Redis; tests ask for ``broker``, which mends it first."""
    yield from _session_broker("redis")


@pytest.fixture
def valkey(valkey_service: BrokerService) -> BrokerService:
    """A Valkey that runs, whatever the test before did to it."""
    valkey_service.ensure_running()
    return valkey_service


@pytest.fixture(params=list(_BROKERS))
def broker(request: pytest.FixtureRequest) -> BrokerService:
    """A broker that runs, once of each kind."""
    service: BrokerService = request.getfixturevalue(f"{request.param}_service")
    service.ensure_running()
    return service


@pytest.fixture(scope="session")
def _database_numbers() -> Iterator[int]:
    return itertools.cycle(range(1, DATABASES))


@pytest.fixture
def valkey_url(valkey: BrokerService, _database_numbers: Iterator[int]) -> str:
    """An empty numbered database of Valkey; what a test before left running does not see it."""
    return _emptied(valkey, next(_database_numbers))


@pytest.fixture
def fresh_broker_db(broker: BrokerService, _database_numbers: Iterator[int]) -> str:
    """An empty numbered database, once of each kind of broker."""
    return _emptied(broker, next(_database_numbers))


def _emptied(service: BrokerService, number: int) -> str:
    with service.client(number) as client:
        client.flushdb()
    return service.url_of(number)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts children that log to files and are killed, with all their own children, when the test ends."""
    started = Processes(tmp_path)
    yield started
    started.close()
