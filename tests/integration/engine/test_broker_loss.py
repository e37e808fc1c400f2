"""A broker that forgets everything, or dies: it holds nudges only, so nothing of a run is lost with it."""

from __future__ import annotations

import celery
import pytest

from stageflow_durable import RunHandle, RunStatus
from tests.integration.engine.claims import all_whole, doubled
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_REDIS, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(SQLITE_REDIS, POSTGRES_VALKEY)]

DIES_WITHOUT_OURS = ("5.7.0",)
"""Celery versions whose own consumer ends when Redis crashes while messages are unacknowledged."""


def held(site: Site, gate: str, stage: str = "s2", count: int = 2) -> list[RunHandle]:
    """Runs whose bodies are in ``stage`` now, until the gate opens."""
    runs = [site.engine.enqueue("three", {"hold": {stage: gate}}) for _ in range(count)]
    for run in runs:
        site.running(run, stage)
    return runs


def restart(site: Site) -> None:
    site.broker.kill()
    site.broker.start()


def test_runs_whose_messages_were_flushed_are_delivered_by_the_sweep(site: Site) -> None:
    blocking = held(site, "flush", count=4)
    queued = [site.engine.enqueue("three", {}) for _ in range(20)]
    site.broker.flushall()
    assert site.messages() == 0
    site.ledger.open("flush")
    site.at_rest([*blocking, *queued])
    all_whole(site, [*blocking, *queued], 3)
    assert doubled(site, [*blocking, *queued]) == {}


def test_a_broker_that_dies_under_load_costs_no_worker_and_no_body(site: Site) -> None:
    before = [worker.process.pid for worker in site.workers]
    runs = [site.engine.enqueue("ten", {"nap": 0.03}) for _ in range(20)]
    for run in runs[:2]:
        site.running(run, "s2")
    restart(site)
    for run in runs[4:5]:
        site.running(run, "s2")
    restart(site)
    site.at_rest(runs, within=60)
    all_whole(site, runs, 10)
    assert doubled(site, runs) == {}
    assert [worker.process.pid for worker in site.workers if worker.lives] == before


def test_a_stage_that_runs_while_the_broker_is_away_commits_and_its_run_goes_on_in_place(site: Site) -> None:
    runs = held(site, "away")
    site.broker.kill()
    site.ledger.open("away")
    site.at_rest(runs)
    site.broker.start()
    all_whole(site, runs, 3)
    assert doubled(site, runs) == {}
    after = site.engine.enqueue("three", {})
    assert site.at_rest([after]) == {RunStatus.SUCCEEDED: 1}


def test_a_stage_that_runs_over_a_restart_of_the_broker_is_not_run_twice(site: Site) -> None:
    runs = held(site, "over")
    restart(site)
    more = [site.engine.enqueue("three", {}) for _ in range(4)]
    site.at_rest(more)  # the workers are back at the broker, which delivers the held messages again as well
    site.ledger.open("over")
    site.at_rest(runs)
    all_whole(site, [*runs, *more], 3)
    assert doubled(site, [*runs, *more]) == {}


def test_celerys_own_consumer_dies_where_ours_survives(bare_site: Site) -> None:
    if celery.__version__ not in DIES_WITHOUT_OURS:
        pytest.skip(f"Celery {celery.__version__} survives the crash of a broker by itself")
    # A queue of its own: the module's other workers must not take the message.
    worker = bare_site.worker("tests.integration.apps.plain", queue="plain")
    bare_site.ready(worker)
    run = bare_site.client(queue="plain").enqueue("three", {"hold": {"s2": "plain"}})
    bare_site.running(run, "s2")
    restart(bare_site)
    bare_site.until(lambda: "has no attribute 'hostname'" in worker.log(), "the consumer has ended")
    bare_site.ledger.open("plain")  # what it waits for before it goes
    bare_site.until(lambda: not worker.lives, "the worker has ended")
    assert bare_site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    bare_site.forget(worker)
