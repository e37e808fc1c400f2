"""Work in two hands: a process that was paused past its lease wakes up again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from stageflow_durable import RunHandle
from stageflow_durable.model.run import WorkerView
from tests.integration.engine.claims import doubled, is_whole
from tests.integration.engine.pairs import POSTGRES_REDIS, SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(SQLITE_VALKEY, POSTGRES_REDIS)]


@pytest.fixture
def paused(site: Site) -> Iterator[tuple[RunHandle, int]]:
    """A run whose process was stopped in s2, past its lease, and taken by another; with that process's id."""
    run = site.engine.enqueue("three", {"hold": {"s2": f"zombie-{os.urandom(4).hex()}"}})
    site.running(run, "s2")
    pid = site.ledger.entries([run.run_id])[-1].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        site.running(run, "s2", bodies=2)
        yield run, pid
    finally:
        os.kill(pid, signal.SIGCONT)


def gate_of(run: RunHandle) -> str:
    return str(run.describe().input["hold"]["s2"])


def test_a_zombie_that_wakes_after_the_run_is_over_is_refused(site: Site, paused: tuple[RunHandle, int]) -> None:
    run, pid = paused
    site.ledger.open(gate_of(run))
    site.at_rest([run])
    os.kill(pid, signal.SIGCONT)
    site.until(lambda: refusals(site, run) == 1, "the zombie's commit is refused")
    is_whole(site, run, 3)
    assert doubled(site, [run]) == {(run.run_id, "s2"): 2}
    assert [event["stage"] for event in site.history(run, "stage.lost")] == ["s2"]


def test_a_zombie_that_commits_while_its_successor_runs_is_refused(site: Site, paused: tuple[RunHandle, int]) -> None:
    run, pid = paused
    os.kill(pid, signal.SIGCONT)
    site.ledger.open(gate_of(run))
    site.at_rest([run])
    site.until(lambda: refusals(site, run) == 1, "the zombie's commit is refused")
    is_whole(site, run, 3)


def test_a_process_that_was_a_zombie_works_again_as_a_new_owner(site: Site, paused: tuple[RunHandle, int]) -> None:
    run, pid = paused
    old = next(attempt.owner for attempt in run.describe().stage("s2").attempts if attempt.owner_pid == pid)
    os.kill(pid, signal.SIGCONT)
    site.ledger.open(gate_of(run))
    site.until(
        lambda: any(w.alive and w.pid == pid and w.owner != old for w in worked(site)),
        "the process is back under a new owner",
    )


def worked(site: Site) -> list[WorkerView]:
    """Owners, after a few more runs have been through the workers."""
    site.at_rest([site.engine.enqueue("three", {"nap": 0.02}) for _ in range(8)])
    return list(site.engine.workers())


def refusals(site: Site, run: RunHandle) -> int:
    """How often a worker said that it was overtaken in s2 of the run."""
    said = f"run {run.run_id} three/s2 was taken over"
    return sum(worker.log().count(said) for worker in site.workers)
