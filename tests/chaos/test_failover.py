"""A network between workers and their broker: it loses connections without a word, and leads to another server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.services.broker import BrokerService
from tests.services.forwarder import Forwarder

pytestmark = [
    pytest.mark.process,
    pytest.mark.chaos,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    on(POSTGRES_VALKEY, max_recoveries=50),
]


@pytest.fixture
def network(mended: ChaosSite) -> Iterator[Forwarder]:
    """What leads to the broker."""
    forwarder = Forwarder(mended.broker.port)
    yield forwarder
    forwarder.close()


@pytest.fixture
def far(mended: ChaosSite, network: Forwarder, tmp_path: Path) -> Iterator[ChaosSite]:
    """Two workers whose broker, and ours, is behind the network."""
    url = mended.broker.url_of(mended.number).replace(f":{mended.broker.port}/", f":{network.port}/")
    settings: dict[str, Any] = {**mended.settings, "queue": "far", "broker_url": url, "redis_url": url}
    site = ChaosSite(tmp_path, settings.pop("database_url"), mended.broker, mended.number, **settings)
    try:
        for worker in [site.worker(), site.worker()]:
            site.ready(worker)
        yield site
    finally:
        site.close()


def test_given_connections_that_are_half_open_when_nobody_closes_them_then_workers_find_out_and_go_on(
    far: ChaosSite, network: Forwarder
) -> None:
    before = [worker.process.pid for worker in far.workers]
    runs = far.under_way()
    assert network.lose() >= 4  # of each worker the one that it listens on, and one of each child
    began = time.monotonic()
    runs += far.load(3)  # over a connection that is dead as well
    assert time.monotonic() - began < 30
    far.survived(runs, within=90)
    assert [worker.process.pid for worker in far.workers if worker.lives] == before


def test_given_idle_workers_when_their_connections_are_half_open_then_the_next_runs_are_carried_all_the_same(
    far: ChaosSite, network: Forwarder
) -> None:
    far.survived(far.load(3))
    assert network.lose() >= 2
    far.survived(far.load(6), within=90)


@pytest.fixture
def twin(far: ChaosSite) -> Iterator[tuple[BrokerService, Forwarder]]:
    """A replica of the broker, and the network that what it replicates comes over."""
    link, replica = Forwarder(far.broker.port), BrokerService.valkey()
    replica.password = far.broker.password  # clients know one, and so does replication
    replica.start()
    try:
        with replica.client() as client:
            client.config_set("masterauth", replica.password)
            client.execute_command("REPLICAOF", "127.0.0.1", link.port)
            far.until(lambda: client.info("replication")["master_link_status"] == "up", "the replica is in step")
        yield replica, link
    finally:
        link.close()
        replica.close()


def position(broker: BrokerService) -> int:
    """How much of the primary's history a server has."""
    with broker.client() as client:
        found = client.info("replication")
    return int(found["master_repl_offset"] if found["role"] == "master" else found["slave_repl_offset"])


def test_given_a_replica_that_lags_when_it_is_promoted_then_what_it_missed_is_delivered_and_what_is_old_dropped(
    far: ChaosSite, network: Forwarder, twin: tuple[BrokerService, Forwarder]
) -> None:
    replica, link = twin
    before = [worker.process.pid for worker in far.workers]
    early = far.under_way()
    far.until(lambda: position(replica) > 0, "it follows")
    assert link.lose() == 1
    late = far.under_way()  # of these, and of what the early ones did since, it knows nothing
    assert position(replica) < position(far.broker)
    far.broker.kill()
    network.target = replica.port
    network.cut()
    late += far.load(1)  # a replica refuses to take its message
    with replica.client() as client:
        assert client.info("replication")["role"] == "slave"
        time.sleep(5)
        client.execute_command("REPLICAOF", "NO", "ONE")
    far.survived([*early, *late], within=90)
    assert [worker.process.pid for worker in far.workers if worker.lives] == before
