"""Sites on a database and a broker, whose workers run sagas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.site import ChaosSite
from tests.integration.engine.conftest import _database
from tests.integration.engine.pairs import Pair
from tests.order import SOAK
from tests.services.broker import BrokerService
from tests.services.missing import wanted

QUICK = {"test_faults.py", "test_operators.py", "test_command.py", "test_ends.py", *([SOAK] if wanted("CI") else [])}
"""What every run of the tests has; in continuous integration two minutes of the mix as well. The rest kills for
minutes: ``make chaos``.
"""

collect_ignore = [
    path.name
    for path in sorted(Path(__file__).parent.glob("test_*.py"))
    if path.name not in QUICK and not wanted("STAGEFLOW_TEST_CHAOS")
]


@pytest.fixture(scope="module")
def bare_site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _database_numbers: Iterator[int]
) -> Iterator[ChaosSite]:
    """A module's engine without workers, on the pair that ``on(...)`` names."""
    pair: Pair = request.param
    directory = tmp_path_factory.mktemp("chaos")
    broker: BrokerService = request.getfixturevalue(f"{pair.broker}_service")
    broker.ensure_running()
    site = ChaosSite(directory, _database(request, pair, directory), broker, next(_database_numbers), **pair.settings)
    site.open()
    try:
        yield site
    finally:
        broker.ensure_running()
        site.close()


@pytest.fixture
def mended(bare_site: ChaosSite) -> ChaosSite:
    """The same, with its broker up, connections that work and every worker alive, whatever the test before did."""
    bare_site.broker.ensure_running()
    bare_site.reconnect()
    for worker in bare_site.workers:
        worker.revive()
    return bare_site


@pytest.fixture(scope="module")
def _fleet(bare_site: ChaosSite) -> ChaosSite:
    for worker in [bare_site.worker(), bare_site.worker()]:
        bare_site.ready(worker)
    return bare_site


@pytest.fixture
def site(_fleet: ChaosSite, mended: ChaosSite) -> ChaosSite:
    """With two workers of two children each."""
    return mended
