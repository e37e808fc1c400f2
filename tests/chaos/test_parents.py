"""A worker's parent: a flood of what it cannot read, mistakes of our own in its loop, children that never grow old."""

from __future__ import annotations

import itertools
import re
import time

import psycopg
import pytest

from stageflow_durable import Submission
from tests.chaos.site import ChaosSite
from tests.integration.engine.hostile import TEXTS
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import LEASE

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY, max_recoveries=50)]

FLOOD = 5000
AHEAD = 15
STARVED_SECONDS, AGAIN_MOST = 20.0, 5
"""After 1, 2, 4, 8 … seconds each is taken for lost once more."""

PATIENCE = 3 * LEASE
"""Seconds until a worker that died is missed: a lease and a sweep, on a machine that does much else."""


def test_given_thousands_of_messages_that_nobody_can_read_when_runs_are_between_them_then_the_worker_carries_those(
    mended: ChaosSite,
) -> None:
    worker = mended.worker(queue="flood")
    mended.ready(worker)
    children = worker.children()
    runs = mended.load(6, queue="flood")
    with mended.broker.client(mended.number) as client, client.pipeline() as pipe:
        for text in itertools.islice(itertools.cycle(TEXTS.values()), FLOOD):
            pipe.lpush("flood", text)
        pipe.execute()
    runs += mended.load(6, queue="flood")
    mended.survived(runs)
    mended.until(lambda: mended.messages("flood") == 0, "the flood is over")
    log = worker.log()
    assert worker.children() == children
    assert "an error in the worker's event loop" not in log
    assert log.count("dropped a message") < FLOOD / 10
    told = sum(int(more) for more in re.findall(r"(\d+) more were not told", log))
    assert told + log.count("dropped a message") > 0
    mended.forget(worker)


def test_given_mistakes_of_our_own_in_the_parents_loop_when_runs_come_then_the_worker_goes_on_and_none_is_lost(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIANT", "stumbles")
    worker = mended.worker("tests.chaos.variants", queue="stumbles", in_place_stages=1)
    mended.ready(worker)
    children = worker.children()
    runs = mended.load(9, queue="stumbles", in_place_stages=1)
    mended.survived(runs)
    assert worker.log().count("an error in the worker's event loop") >= 3
    assert worker.lives and worker.children() == children
    mended.forget(worker)


def test_given_children_that_are_replaced_every_second_when_another_worker_dies_then_it_is_missed_within_its_lease(
    mended: ChaosSite,
) -> None:
    young = mended.worker("tests.chaos.app", "--max-tasks-per-child", "3", queue="young")
    mended.ready(young)
    mended.client(queue="young").enqueue_many("one", [Submission({"nap": 0.3}) for _ in range(600)])
    doomed = mended.worker(queue="doomed")
    mended.ready(doomed)
    run = mended.client(queue="doomed").enqueue("three", {"hold": {"s2": "doomed"}})
    mended.running(run, "s2")
    time.sleep(1.5 * LEASE)  # no child that has begun before lives any more
    doomed.kill()
    mended.until(lambda: mended.history(run, "stage.lost"), "it is missed", within=PATIENCE)
    ages = [
        (one.ended_at - one.started_at).total_seconds()
        for one in mended.engine.workers()
        if "young" in one.queues and one.ended_at
    ]
    assert ages and max(ages) < LEASE, f"children grew old: {ages}"
    mended.forget(young, doomed)


def test_given_a_child_that_is_busy_when_its_worker_holds_messages_in_advance_then_each_is_sent_again_a_few_times(
    site: ChaosSite,
) -> None:
    hog = site.worker("tests.chaos.app", "--prefetch-multiplier", "16", children=1, queue="starved")
    site.ready(hog)
    client = site.client(queue="starved")
    first = client.enqueue("three", {"hold": {"s1": "starved"}})
    site.running(first, "s1")
    runs = [client.enqueue("one", {}) for _ in range(AHEAD)]
    site.until(lambda: site.messages("starved") == 0, "all are held in advance")
    time.sleep(STARVED_SECONDS)  # what is looked for is that nothing happens meanwhile
    sent_again = nudges(site)
    site.ledger.open("starved")
    site.at_rest([first, *runs])
    assert set(site.ledger.bodies([run.run_id for run in runs]).values()) == {1}
    assert len(sent_again) == AHEAD and 0 < max(sent_again) <= AGAIN_MOST, sent_again
    site.forget(hog)


def nudges(site: ChaosSite) -> list[int]:
    """How often the message of each strand that is ready was published again."""
    with psycopg.connect(site.plain_url) as connection:
        found = "SELECT nudges FROM stageflow_strands WHERE queue = 'starved' AND state = 'ready'"
        return [nudged for (nudged,) in connection.execute(found)]
