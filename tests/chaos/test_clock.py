"""The clock of the whole machine is moved: of the workers, the database and the broker at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.chaos.site import ChaosSite
from tests.services.broker import BrokerService
from tests.services.postgres import PostgresService
from tests.services.wallclock import WallClock

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.postgres, pytest.mark.redis]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[WallClock]:
    """Of every process that the test starts; the test's own keeps the right time."""
    made = WallClock()
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


@pytest.fixture
def machine(clock: WallClock, tmp_path: Path) -> Iterator[ChaosSite]:
    """A database, a broker and two workers on it."""
    postgres, broker = PostgresService(), BrokerService.valkey()
    try:
        postgres.start()
        broker.start()
        site = ChaosSite(tmp_path, postgres.create_database(), broker, 0, max_recoveries=50)
        try:
            site.open()
            for worker in [site.worker(), site.worker()]:
                site.ready(worker)
            yield site
        finally:
            site.close()
    finally:
        broker.close()
        postgres.close()


def shown(machine: ChaosSite) -> float:
    """The time of day in the database, seconds since 1970."""
    with psycopg.connect(machine.plain_url) as connection:
        (moment,) = connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone() or (0.0,)
    return float(moment)


@pytest.mark.parametrize("seconds", [3600, -3600], ids=["an hour ahead", "an hour back"])
def test_given_runs_under_way_when_the_clock_of_the_machine_is_moved_then_each_comes_to_its_end(
    machine: ChaosSite, clock: WallClock, seconds: int
) -> None:
    runs = machine.under_way()
    clock.move(seconds)
    assert abs(shown(machine) - time.time() - seconds) < 60
    runs += machine.load()
    os.kill(machine.workers[0].children()[0], signal.SIGKILL)
    machine.survived(runs, within=90)
    machine.workers[1].kill()
    more = machine.load()
    machine.survived(more, within=60)
