"""Signals to workers, and processes that die at the moments between a commit, a message and its acknowledgement."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.model.status import ParkReason
from tests.chaos.site import ChaosSite
from tests.integration.engine.claims import doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Worker

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]
VARIANTS = "tests.chaos.variants"


def worker(site: ChaosSite, queue: str, app: str = "tests.chaos.app", **settings: Any) -> Worker:
    started = site.worker(app, queue=queue, **settings)
    site.ready(started)
    return started


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGQUIT], ids=lambda number: number.name)
def test_given_a_stage_that_runs_when_its_worker_is_asked_to_end_then_it_ends_after_the_stage(
    mended: ChaosSite, number: signal.Signals
) -> None:
    site, queue = mended, number.name.lower()
    first = worker(site, queue)
    run = site.client(queue=queue).enqueue("three", {"hold": {"s2": queue}})
    site.running(run, "s2")
    first.process.send_signal(number)
    site.until(lambda: "shutdown" in first.log().lower(), "it was asked")
    site.ledger.open(queue)
    assert first.process.wait(20) == 0
    worker(site, queue)
    site.at_rest([run])
    is_whole(site, run, 3)
    assert doubled(site, [run]) == {}
    site.forget(*site.workers)


def test_given_no_soft_shutdown_when_a_worker_gets_sigquit_then_another_one_does_the_stage_again(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VARIANT", "cold")
    first = worker(mended, "cold", VARIANTS)
    run = mended.client(queue="cold").enqueue("three", {"hold": {"s2": "cold"}})
    mended.running(run, "s2")
    first.process.send_signal(signal.SIGQUIT)
    first.process.wait(20)
    worker(mended, "cold")
    mended.running(run, "s2", bodies=2)
    mended.ledger.open("cold")
    mended.at_rest([run])
    is_whole(mended, run, 3)
    assert doubled(mended, [run]) == {(run.run_id, "s2"): 2}
    mended.forget(*mended.workers)


def test_given_two_sigterms_and_a_sigkill_when_another_worker_comes_then_the_stage_is_done_again(
    mended: ChaosSite,
) -> None:
    first = worker(mended, "thrice")
    run = mended.client(queue="thrice").enqueue("three", {"hold": {"s2": "thrice"}})
    mended.running(run, "s2")
    for _ in range(2):
        first.process.send_signal(signal.SIGTERM)
    mended.until(lambda: "Warm shutdown" in first.log() or not first.lives, "it was asked")
    first.kill()
    worker(mended, "thrice")
    mended.running(run, "s2", bodies=2)
    mended.ledger.open("thrice")
    mended.at_rest([run])
    is_whole(mended, run, 3)
    mended.forget(*mended.workers)


def test_given_a_main_process_that_is_killed_alone_then_its_children_leave_nothing_half_done(mended: ChaosSite) -> None:
    first = worker(mended, "alone")
    run = mended.client(queue="alone").enqueue("three", {"hold": {"s2": "alone"}})
    mended.running(run, "s2")
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(10)
    worker(mended, "alone")
    mended.ledger.open("alone")
    mended.at_rest([run])
    is_whole(mended, run, 3)
    mended.forget(*mended.workers)


def test_given_a_stopped_main_process_when_runs_come_and_it_is_killed_then_none_is_lost(mended: ChaosSite) -> None:
    first = worker(mended, "deaf")
    first.signal(signal.SIGSTOP)
    runs = mended.load(6, queue="deaf")
    first.kill()
    worker(mended, "deaf")
    mended.survived(runs)
    mended.forget(*mended.workers)


@pytest.mark.parametrize("variant", ["dies before it publishes", "dies after it published"])
def test_given_children_that_die_around_a_publish_when_the_next_link_is_missing_or_double_then_each_stage_ran_once(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    monkeypatch.setenv("VARIANT", variant)
    queue = variant.replace(" ", "-")
    worker(mended, queue, VARIANTS, in_place_stages=1)
    runs = [mended.client(queue=queue, in_place_stages=1).enqueue("three", {}) for _ in range(4)]
    mended.at_rest(runs)
    assert all(not mended.ledger.first(f"{variant.split()[1]}-{n}") for n in range(3))  # three have died
    for run in runs:
        is_whole(mended, run, 3)
    assert doubled(mended, runs) == {}
    mended.forget(*mended.workers)


def test_given_a_stage_that_kills_its_process_at_every_attempt_then_its_run_is_parked_as_poison(
    mended: ChaosSite,
) -> None:
    worker(mended, "poison", max_recoveries=3)
    run = mended.client(queue="poison").enqueue("five", {"die": {"do:s2": ["children", "after"]}})
    beside = mended.load(3, queue="poison")
    mended.at_rest([run])
    assert (run.status(), run.describe().park_reason) == (RunStatus.PARKED, ParkReason.POISON)
    assert mended.ledger.bodies([run.run_id])[run.run_id, "s2"] == 3
    assert mended.trace(run).done == ["s1", "s2"]
    mended.survived(beside)
    mended.forget(*mended.workers)


@pytest.mark.parametrize("variant", ["used before the fork", "an hour ahead", "an hour behind"])
def test_given_a_worker_that_is_odd_when_it_works_beside_another_then_it_harms_nothing(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    queue = variant.replace(" ", "-")
    worker(mended, queue)
    monkeypatch.setenv("VARIANT", variant)
    odd = worker(mended, queue, VARIANTS)
    runs = mended.load(9, queue=queue)
    mended.until(lambda: mended.ledger.entries([run.run_id for run in runs]), "they are under way")
    os.kill(odd.children()[0], signal.SIGKILL)
    mended.survived(runs)
    assert odd.lives
    mended.forget(*mended.workers)
