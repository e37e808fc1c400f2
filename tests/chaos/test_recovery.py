"""Who recovers others dies as well: a sweep is killed at each of its steps, and the next one finds everything."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from stageflow_durable import RunStatus
from tests.chaos.dying_sweep import POINTS
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import ROOT
from tests.services.process import reaped, spawn

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY, max_recoveries=50)]


def test_given_a_sweep_that_is_killed_at_each_step_when_workers_come_then_every_run_ends_as_it_should(
    mended: ChaosSite,
) -> None:
    first = mended.worker()
    mended.ready(first)
    # Some whose owners will be dead, one that waits to be tried again, some whose message is lost.
    later = mended.engine.enqueue("five", {"fail": {"do:s1": ["later", 1, "after"]}})
    held = [mended.engine.enqueue("five", {"hold": {"do:s2": "swept"}}) for _ in range(2)]
    for run in held:
        mended.running(run, "s2")
    mended.until(lambda: mended.history(later, "work.retry_attempt"), "it waits")
    first.kill()
    lost = mended.load(4)
    died = []
    for point in POINTS:
        mended.broker.flushall()  # what the one before had sent is gone again
        command = [sys.executable, "-m", "tests.chaos.dying_sweep", point]
        process = spawn(command, env=mended.environment(), cwd=ROOT, stdout=subprocess.DEVNULL)
        with reaped(process):
            if process.wait(40) == -signal.SIGKILL:
                died.append(point)
    assert died == list(POINTS)
    mended.ledger.open("swept")
    mended.worker()
    mended.survived([*held, *lost])
    assert mended.at_rest([later]) == {RunStatus.SUCCEEDED: 1}
    assert mended.problems([later]) == {}
    mended.forget(*mended.workers)
