"""A broker in trouble: full, a replica, deaf, forgetful, with another password. It holds nudges only."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer

import pytest
from redis import Redis
from redis.exceptions import RedisError

from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.services.broker import BrokerService

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]

NOBODY = 1  # a port on which nothing answers


@pytest.fixture
def tamed(site: ChaosSite) -> Iterator[ChaosSite]:
    """A fleet on a broker that is as it was afterwards."""
    yield site
    with site.broker.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", 0)
        client.config_set("appendfsync", "everysec")
        client.execute_command("REPLICAOF", "NO", "ONE")


def admin(site: ChaosSite, *command: str | int) -> None:
    with site.broker.client() as client:
        client.execute_command(*command)


def full(site: ChaosSite) -> None:
    admin(site, "CONFIG", "SET", "maxmemory", 1)


def not_full(site: ChaosSite) -> None:
    admin(site, "CONFIG", "SET", "maxmemory", 0)


def replica(site: ChaosSite) -> None:
    admin(site, "REPLICAOF", "127.0.0.1", NOBODY)


def primary(site: ChaosSite) -> None:
    admin(site, "REPLICAOF", "NO", "ONE")


def other_password(site: ChaosSite) -> None:
    """Nobody who has to connect again gets in."""
    with Redis.from_url(site.broker.url) as client:
        client.config_set("requirepass", "another")
        with suppress(RedisError):  # it may be ours that is killed
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def same_password(site: ChaosSite) -> None:
    with Redis(port=site.broker.port, password="another") as client:
        client.config_set("requirepass", site.broker.password)


def acl(site: ChaosSite, *rules: str) -> None:
    """Rules for the user that everybody is, by one who may make them."""
    user = ("ACL", "SETUSER", "keeper", "on", f">{site.broker.password}", "~*", "&*", "+@all")
    with suppress(RedisError):  # nobody else may, the second time
        admin(site, *user)
    with Redis(port=site.broker.port, username="keeper", password=site.broker.password) as keeper:
        keeper.execute_command("ACL", "SETUSER", "default", *rules)
        if "off" in rules:
            keeper.execute_command("CLIENT", "KILL", "USER", "default")


TROUBLES: dict[str, tuple[Callable[[ChaosSite], None], Callable[[ChaosSite], None]]] = {
    "full": (full, not_full),
    "a replica that refuses writes": (replica, primary),
    "another password": (other_password, same_password),
    "a user who may not write": (lambda site: acl(site, "-@write"), lambda site: acl(site, "+@all")),
    "a user who is switched off": (lambda site: acl(site, "off"), lambda site: acl(site, "on")),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_given_runs_under_way_when_the_broker_refuses_for_seconds_then_every_run_comes_to_its_end(
    tamed: ChaosSite, trouble: str
) -> None:
    before = [worker.process.pid for worker in tamed.workers]
    begin, end = TROUBLES[trouble]
    runs = tamed.under_way()
    begin(tamed)
    try:
        began = time.monotonic()
        runs += tamed.load(1)  # recorded, though nobody can be told
        assert time.monotonic() - began < 30
        time.sleep(max(0.0, 5.0 - (time.monotonic() - began)))
    finally:
        end(tamed)
    tamed.survived(runs)
    assert [worker.process.pid for worker in tamed.workers if worker.lives] == before


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [8, 120])
def test_given_runs_under_way_when_the_broker_stands_still_then_they_are_recorded_and_every_run_comes_to_its_end(
    tamed: ChaosSite, seconds: int
) -> None:
    before = [worker.process.pid for worker in tamed.workers]
    runs = tamed.under_way()
    tamed.broker.pause()
    began = time.monotonic()
    until = Timer(seconds, tamed.broker.resume)
    until.start()
    try:
        runs += tamed.load(1)  # nobody answers: at the latest when the connection's time is up it is recorded
        assert time.monotonic() - began < 60
    finally:
        until.join()
    tamed.survived(runs, within=90)
    assert [worker.process.pid for worker in tamed.workers if worker.lives] == before


@pytest.mark.parametrize("kind", ["normal", "pubsub"])
def test_given_runs_under_way_when_connections_to_the_broker_are_killed_again_and_again_then_none_is_lost(
    tamed: ChaosSite, kind: str
) -> None:
    runs = tamed.under_way()
    for _ in range(6):
        admin(tamed, "CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
        time.sleep(0.3)
    tamed.survived(runs)


def test_given_runs_under_way_when_the_broker_pauses_its_clients_then_none_is_lost(tamed: ChaosSite) -> None:
    runs = tamed.under_way()
    admin(tamed, "CLIENT", "PAUSE", 3000, "ALL")
    tamed.survived(runs)


def test_given_a_broker_that_evicts_what_it_likes_when_it_is_full_then_the_sweep_delivers_what_it_forgot(
    tamed: ChaosSite,
) -> None:
    runs = tamed.under_way()
    with tamed.broker.client(63) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 200_000)
        evicted = client.info("stats")["evicted_keys"]
        for number in range(60):
            with suppress(RedisError):
                client.set(f"junk-{number % 20}", "x" * 20_000)
            time.sleep(0.03)
        assert client.info("stats")["evicted_keys"] > evicted
    tamed.survived(runs)


def test_given_runs_under_way_when_only_what_redis_knows_of_keys_is_deleted_then_no_effect_is_doubled(
    tamed: ChaosSite,
) -> None:
    runs = tamed.under_way()
    with tamed.broker.client(tamed.number) as client:
        for _ in range(5):
            for key in client.scan_iter("stageflow:*"):
                client.delete(key)
            time.sleep(0.1)
    tamed.survived(runs)


@pytest.mark.parametrize("fsync", ["everysec", "always"])
def test_given_an_append_only_file_when_the_broker_is_killed_then_runs_go_on_after_it(
    tamed: ChaosSite, fsync: str
) -> None:
    admin(tamed, "CONFIG", "SET", "appendfsync", fsync)
    runs = tamed.under_way()
    tamed.broker.kill()
    time.sleep(1.0)
    tamed.broker.start()
    tamed.survived(runs)


def test_given_a_replica_that_lagged_when_it_is_promoted_then_what_it_missed_is_delivered_and_what_is_old_dropped(
    tamed: ChaosSite, tmp_path: Path
) -> None:
    # What a replica that lagged has is what its primary had a moment before.
    early = tamed.load(6)
    time.sleep(1.2)  # until the file is written
    held = tmp_path / "replica"
    shutil.copytree(tamed.broker.directory / "appendonlydir", held)
    late = tamed.load(6)
    tamed.survived(early)
    tamed.broker.kill()
    shutil.rmtree(tamed.broker.directory / "appendonlydir")
    shutil.copytree(held, tamed.broker.directory / "appendonlydir")
    tamed.broker.start()
    tamed.survived(late)
    assert tamed.problems(early) == {}


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [1, 30])
def test_given_a_broker_that_keeps_nothing_when_it_is_killed_then_the_sweep_delivers_its_messages(
    bare_site: ChaosSite, tmp_path: Path, seconds: int
) -> None:
    forgetful = BrokerService.valkey(appendonly=False)
    forgetful.start()
    try:
        url = forgetful.url
        site = ChaosSite(tmp_path, bare_site.settings["database_url"], forgetful, 0, queue="forgetful", broker_url=url)
        try:
            site.ready(site.worker())
            runs = site.under_way()
            forgetful.kill()
            time.sleep(seconds)
            forgetful.start()
            site.survived(runs, within=90)
        finally:
            site.close()
    finally:
        forgetful.close()
