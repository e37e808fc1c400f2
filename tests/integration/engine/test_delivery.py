"""Messages are nudges: lost ones come again by the sweep, waiting ones are not published twice."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from stageflow_durable import RunHandle
from tests.integration.engine.claims import all_whole, doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_REDIS, SQLITE_VALKEY, on
from tests.integration.engine.site import ROOT, Site
from tests.services.process import reaped, spawn

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_REDIS)]


def module(site: Site, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start ``python -m tests.integration.apps.NAME`` here."""
    command = [sys.executable, "-m", f"tests.integration.apps.{name}", *arguments]
    return spawn(command, env=site.environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=None)


def enqueue_and_die(site: Site, key: str) -> RunHandle:
    process = module(site, "dying", key)
    with reaped(process):
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
    return site.engine.enqueue("three", {}, idempotency_key=key)


def test_a_run_whose_submitter_died_before_it_published_is_delivered_by_the_sweep(site: Site) -> None:
    run = enqueue_and_die(site, "died")
    assert run.replayed
    site.at_rest([run])
    is_whole(site, run, 3)
    assert len(site.history(run, "stage.nudged")) <= 1  # not noted when it is carried before that


def test_a_lost_message_is_found_beside_a_queue_that_never_gets_empty(site: Site) -> None:
    lost = enqueue_and_die(site, "busy")
    others: list[RunHandle] = []

    def found() -> bool:
        missing = 20 - site.messages()  # not "while": the workers may be the faster ones, for good
        others.extend(site.engine.enqueue("three", {"nap": 0.02}) for _ in range(missing))
        return lost.status() == "succeeded"

    site.until(found, "the lost run is over")
    site.at_rest(others)
    all_whole(site, [lost, *others], 3)
    assert [run for run in others if site.history(run, "stage.nudged")] == []


@pytest.mark.chaos
def test_two_sweeps_in_a_tight_loop_beside_dying_workers_change_no_effect(site: Site) -> None:
    sweepers = [module(site, "sweeping", "sweep") for _ in range(2)]
    with reaped(*sweepers):
        site.until(lambda: all(site.ledger.is_open(f"sweeping-{one.pid}") for one in sweepers), "both sweep")
        deadly = [site.engine.enqueue("ten", {"kill": {f"s{k}": "child"}, "nap": 0.01}) for k in (2, 5, 9)]
        failing = [site.engine.enqueue("ten", {"fail": {"s4": [2, "error"]}, "nap": 0.01}) for _ in range(8)]
        site.at_rest([*deadly, *failing], within=60)
        site.ledger.open("sweep")
        swept = [int(sweeper.communicate(timeout=20)[0]) for sweeper in sweepers]
    assert min(swept) > 5 and [sweeper.returncode for sweeper in sweepers] == [0, 0]
    all_whole(site, [*deadly, *failing], 10)
    expected = {(run.run_id, f"s{k}"): 2 for run, k in zip(deadly, (2, 5, 9), strict=True)}
    assert doubled(site, [*deadly, *failing]) == expected | {(run.run_id, "s4"): 3 for run in failing}
