"""A process that stands still in a stage without a timeout: its undo waits until its end is confirmed, by whomever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from stageflow_durable import RunHandle, RunStatus
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import ROOT, Worker

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY, max_recoveries=50)]


@dataclass(frozen=True)
class Stopped:
    """A run whose second stage has acted and stands still since, and who holds it."""

    site: ChaosSite
    run: RunHandle
    worker: Worker
    pid: int

    @property
    def owner(self) -> str:
        """Under which name."""
        return next(one.owner for one in self.site.engine.workers() if one.pid == self.pid and one.awaited)

    @property
    def undone(self) -> list[str]:
        """What was undone so far."""
        return self.site.trace(self.run).undone


@pytest.fixture
def stopped(site: ChaosSite, request: pytest.FixtureRequest) -> Iterator[Stopped]:
    """Taken over, and its undo waits."""
    gate = f"stopped-{request.node.callspec.id}"
    run = site.engine.enqueue("doubtful", {"hold": {"do:s2": gate}})
    site.running(run, "s2")
    site.until(lambda: site.trace(run).done == ["s1", "s2"], "it has acted")
    pid = site.ledger.entries([run.run_id])[-1].pid
    worker = next(worker for worker in site.workers if pid in worker.children())
    os.kill(pid, signal.SIGSTOP)
    site.until(lambda: site.history(run, "stage.lost"), "it is taken over")
    yield Stopped(site, run, worker, pid)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    site.ledger.open(gate)


def by_itself(it: Stopped) -> None:
    """It goes on, and learns that it was taken over."""
    os.kill(it.pid, signal.SIGCONT)


def by_its_parent(it: Stopped) -> None:
    """Its parent sees it end."""
    os.kill(it.pid, signal.SIGKILL)


def by_its_host(it: Stopped) -> None:
    """It ends with its parent: another worker of the host looks."""
    it.worker.kill()


def by_a_person(it: Stopped) -> None:
    """Somebody says so: the command of the documentation."""
    command = [sys.executable, "-m", "stageflow_durable.cli", "workers", "confirm-dead", it.owner, "--reason", "pulled"]
    subprocess.run([*command, "--app", "tests.chaos.app:engine"], env=it.site.environment(), cwd=ROOT, check=True)


CONFIRMED: dict[Callable[[Stopped], None], tuple[str, tuple[str, ...]]] = {
    by_itself: ("worker.ended", ("itself",)),
    by_its_parent: ("worker.ended", ("its parent", "another process of")),  # they look at the same time
    by_its_host: ("worker.ended", ("another process of",)),
    by_a_person: ("operator.confirm-dead", ("",)),
}


@pytest.mark.parametrize("confirm", CONFIRMED, ids=lambda confirm: confirm.__name__)
def test_given_a_process_that_stands_still_past_its_lease_then_its_stage_is_undone_once_its_end_is_confirmed(
    stopped: Stopped, confirm: Callable[[Stopped], None]
) -> None:
    site, run = stopped.site, stopped.run
    waits = {one.run_id for one in site.engine.runs(attention=True)}
    assert run.run_id in waits and stopped.owner
    site.engine.sweep()
    assert (run.status(), stopped.undone) == (RunStatus.COMPENSATING, [])
    confirm(stopped)
    assert site.at_rest([run]) == {RunStatus.COMPENSATED: 1}
    assert site.problems([run]) == {}
    assert stopped.undone == ["s2", "s1"]
    kind, by = CONFIRMED[confirm]
    (told,) = site.history(run, "worker.ended", "operator.confirm-dead")
    assert told["type"] == kind and str(told.get("confirmed_by", "")).startswith(by)


def test_given_a_stage_that_runs_when_its_child_gets_sigterm_then_the_run_goes_on_elsewhere_and_acts_once(
    site: ChaosSite,
) -> None:
    run = site.engine.enqueue("five", {"hold": {"do:s2": "sigterm"}})
    site.running(run, "s2")
    pid = site.ledger.entries([run.run_id])[-1].pid
    os.kill(pid, signal.SIGTERM)
    site.ledger.open("sigterm")
    assert site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    assert site.problems([run]) == {}
    assert all(worker.lives for worker in site.workers)
    site.until(lambda: all(len(worker.children()) == 2 for worker in site.workers), "the pool is whole again")
