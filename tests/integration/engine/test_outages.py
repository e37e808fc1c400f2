"""The database or the broker away, at submission and under load."""

from __future__ import annotations

import re
import time

import pytest

from stageflow_durable import RunStatus, Submission
from stageflow_durable.embedded.ports import free_port
from stageflow_durable.errors import StoreUnavailable
from tests.integration.engine.claims import all_whole, doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Site
from tests.services.postgres import PostgresService

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]

BOUNDED = 15.0


def test_nothing_is_accepted_while_the_database_is_away(bare_site: Site, postgres: PostgresService) -> None:
    engine = bare_site.client()
    assert len(bare_site.engine.runs()) == len(engine.runs())
    before = engine.runs(limit=1000)
    postgres.kill()
    began = time.monotonic()
    for attempt in (lambda: engine.enqueue("three", {}), lambda: engine.enqueue_many("three", [Submission({})])):
        with pytest.raises(StoreUnavailable):
            attempt()
    assert time.monotonic() - began < BOUNDED
    postgres.start()
    assert engine.runs(limit=1000) == before
    assert bare_site.messages() == 0
    engine.close()


@pytest.mark.parametrize(
    "url",
    ["sqlite:////nowhere/at/all.db", f"postgresql+psycopg://u:secret@127.0.0.1:{free_port()}/d"],
    ids=["sqlite", "postgres"],
)
def test_a_database_that_was_never_there_is_named_without_its_password(bare_site: Site, url: str) -> None:
    engine = bare_site.client(database_url=url)
    with pytest.raises(StoreUnavailable) as caught:
        engine.enqueue("three", {})
    assert "secret" not in str(caught.value)


def test_no_line_of_a_worker_holds_a_password_of_its_settings_while_both_are_away(
    bare_site: Site, postgres: PostgresService
) -> None:
    worker = bare_site.worker(flags=("-l", "DEBUG"), audit_key="the audit key of this test")
    bare_site.ready(worker)
    postgres.kill()
    bare_site.broker.kill()
    bare_site.until(lambda: "Cannot connect" in worker.log(), "the broker is missed")
    bare_site.until(
        lambda: re.search("stageflow-heartbeat|database did not answer", worker.log()), "so is the database"
    )
    postgres.start()
    bare_site.broker.start()
    for secret in (postgres.password, bare_site.broker.password, "the audit key of this test"):
        assert secret not in worker.log()
    bare_site.forget(worker)


def test_a_run_is_recorded_while_the_broker_is_away_and_delivered_when_it_is_back(site: Site) -> None:
    client = site.client()
    site.broker.kill()
    began = time.monotonic()
    runs = [client.enqueue("three", {}) for _ in range(2)]
    assert time.monotonic() - began < BOUNDED
    assert [run.status() for run in runs] == [RunStatus.PENDING] * 2
    site.broker.start()
    site.at_rest(runs)
    all_whole(site, runs, 3)
    assert doubled(site, runs) == {}


def test_workers_recover_from_a_database_that_restarts_under_load(site: Site, postgres: PostgresService) -> None:
    before = [worker.process.pid for worker in site.workers]
    runs = [site.engine.enqueue("ten", {"nap": 0.03}) for _ in range(20)]
    for run in (runs[0], runs[5]):
        site.running(run, "s3")
        postgres.kill()
        postgres.start()
    site.at_rest(runs, within=60)
    site.reconnect()
    all_whole(site, runs, 10)
    for (run_id, stage), times in doubled(site, runs).items():
        lost = [event["stage"] for event in site.history(site.engine.handle(run_id), "stage.lost")]
        assert times <= 1 + lost.count(stage)  # a lease may run out with the database
    assert [worker.process.pid for worker in site.workers if worker.lives] == before


def test_a_stage_whose_outcome_is_known_while_the_database_is_away_is_not_run_again(
    site: Site, postgres: PostgresService
) -> None:
    run = site.engine.enqueue("three", {"hold": {"s2": "dark"}})
    site.running(run, "s2")
    postgres.kill()
    site.ledger.open("dark")
    time.sleep(0.5)  # the body ends in the dark
    postgres.start()
    site.at_rest([run])
    site.reconnect()
    is_whole(site, run, 3)
    assert doubled(site, [run]) == {}
