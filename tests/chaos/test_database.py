"""A database in trouble under load: backends ended in the middle of commits, no connection left, nothing answering."""

from __future__ import annotations

import sqlite3
import time
from contextlib import ExitStack

import psycopg
import pytest

from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.services.postgres import PostgresService

pytestmark = [pytest.mark.process, pytest.mark.chaos]

OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


@on(POSTGRES_VALKEY, max_recoveries=50)
def test_given_sagas_under_way_when_backends_are_ended_again_and_again_then_no_outcome_is_lost_or_doubled(
    site: ChaosSite,
) -> None:
    runs = site.load(18, nap=0.05)
    ended = 0
    with psycopg.connect(site.plain_url, autocommit=True) as connection:
        for _ in range(40):
            ended += len(connection.execute(f"SELECT pg_terminate_backend(pid) {OTHERS}").fetchall())
            time.sleep(0.05)
    assert ended > 10
    site.reconnect()
    site.survived(runs, within=90)


@on(POSTGRES_VALKEY, max_recoveries=50)
def test_given_no_connection_left_when_workers_lose_theirs_then_they_wait_and_go_on(site: ChaosSite) -> None:
    runs = site.load()
    with ExitStack() as hoard:
        holder = hoard.enter_context(psycopg.connect(site.plain_url, autocommit=True))
        until = time.monotonic() + 6
        refused = 0
        while time.monotonic() < until or refused <= 3:  # taking them all takes its time, too
            holder.execute(f"SELECT pg_terminate_backend(pid) {OTHERS} AND application_name <> 'hoard'")
            try:
                while True:
                    hoard.enter_context(psycopg.connect(site.plain_url, application_name="hoard", connect_timeout=2))
            except psycopg.OperationalError:
                refused += 1
                time.sleep(0.2)
    site.reconnect()
    site.survived(runs, within=90)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [6, 30])
@on(POSTGRES_VALKEY, max_recoveries=50)
def test_given_a_database_that_stands_still_beyond_the_lease_then_nobody_is_declared_dead_for_it_alone(
    site: ChaosSite, postgres_service: PostgresService, seconds: int
) -> None:
    runs = site.load()
    postgres_service.pause()
    time.sleep(seconds)
    postgres_service.resume()
    site.reconnect()
    site.survived(runs, within=90)


@on(SQLITE_VALKEY, max_recoveries=50)
def test_given_a_file_that_somebody_else_locks_for_seconds_then_workers_wait_and_go_on(site: ChaosSite) -> None:
    runs = site.load()
    with sqlite3.connect(site.directory / "stageflow.db", isolation_level=None) as somebody:
        for _ in range(2):
            somebody.execute("BEGIN IMMEDIATE")
            time.sleep(3)
            somebody.execute("ROLLBACK")
            time.sleep(0.2)
    somebody.close()
    site.survived(runs, within=90)
