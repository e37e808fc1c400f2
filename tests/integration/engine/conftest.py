"""Sites on pairs of database and broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.engine.pairs import Pair
from tests.integration.engine.site import Site
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService


@pytest.fixture(scope="module")
def bare_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _database_numbers: Iterator[int]
) -> Iterator[Site]:
    """A module's engine without workers, on the pair that ``on(...)`` names."""
    pair: Pair = request.param
    directory = tmp_path_factory.mktemp("site")
    broker: BrokerService = request.getfixturevalue(f"{pair.broker}_service")
    broker.ensure_running()
    site = Site(directory, _database(request, pair, directory), broker, next(_database_numbers), **pair.settings)
    site.open()
    try:
        yield site
    finally:
        broker.ensure_running()
        site.close()


@pytest.fixture(autouse=True)
def _services_run(bare_site: Site) -> None:
    """No test meets a broker that the one before left dead, or connections to a database that was restarted since."""
    bare_site.broker.ensure_running()
    bare_site.reconnect()


@pytest.fixture(scope="module")
def site(bare_site: Site) -> Site:
    """The same, with two workers of two children each."""
    for worker in [bare_site.worker(), bare_site.worker()]:
        bare_site.ready(worker)
    return bare_site


def _database(request: pytest.FixtureRequest, pair: Pair, directory: object) -> str:
    if pair.database == "sqlite":
        return f"sqlite:///{directory}/stageflow.db"
    postgres: PostgresService = request.getfixturevalue("postgres_service")
    postgres.ensure_running()
    return postgres.create_database()
