"""How long work lies still after a SIGKILL.

``make bench`` measures it, on a machine that does nothing else; these bounds hold on one that does a lot.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import RunStatus
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import LEASE

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(POSTGRES_VALKEY, max_recoveries=50)]

TIMES = 5
LONG_LEASE = 30.0


def seconds_until_taken(site: ChaosSite, name: str, kill: Callable[[int], None], **settings: Any) -> float:
    """From the end of the process that runs a stage to the stage's next attempt."""
    run = site.client(**settings).enqueue("five", {"hold": {"do:s2": name}})
    site.running(run, "s2")
    pid = site.ledger.entries([run.run_id])[-1].pid
    kill(pid)
    killed = time.time()
    site.running(run, "s2", bodies=2)
    taken = run.describe().stage("s2").attempts[-1].began_at.timestamp() - killed
    site.ledger.open(name)
    assert site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    assert site.problems([run]) == {}
    return taken


def test_given_a_child_that_is_killed_then_its_stage_runs_elsewhere_long_before_its_lease_runs_out(
    mended: ChaosSite,
) -> None:
    settings: dict[str, Any] = {"queue": "patient", "lease_seconds": LONG_LEASE}
    worker = mended.worker(**settings)
    mended.ready(worker)
    taken = [
        seconds_until_taken(mended, f"child-{number}", lambda pid: os.kill(pid, signal.SIGKILL), **settings)
        for number in range(TIMES)
    ]
    mended.forget(worker)
    assert max(taken) < LONG_LEASE / 5, taken


def test_given_a_worker_that_is_killed_then_its_stages_run_elsewhere_within_its_lease_and_two_seconds(
    site: ChaosSite,
) -> None:
    taken = []
    for number in range(TIMES):
        for worker in site.workers:
            worker.revive()
        site.until(lambda: all(len(worker.children()) == 2 for worker in site.workers), "both work")
        taken.append(seconds_until_taken(site, f"worker-{number}", lambda pid: _worker_of(site, pid)))
    assert max(taken) < LEASE + 2.0, taken


def _worker_of(site: ChaosSite, child: int) -> None:
    next(worker for worker in site.workers if child in worker.children()).kill()
