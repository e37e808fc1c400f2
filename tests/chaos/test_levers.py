"""Workers with each lever of performance switched off: what is promised about killed processes holds all the same."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from stageflow_durable import RunHandle, Submission
from tests.chaos.site import ChaosSite
from tests.conformance.engine.test_levers import LEVERS
from tests.integration.engine.pairs import POSTGRES_VALKEY, on

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(POSTGRES_VALKEY, max_recoveries=50)]

MANY = 30


@pytest.mark.parametrize("name", LEVERS)
def test_given_a_child_that_is_killed_among_many_runs_then_each_ends_as_its_input_sends_it(
    mended: ChaosSite, name: str
) -> None:
    settings: dict[str, Any] = {"queue": name.replace(" ", "-"), **LEVERS[name]}
    worker = mended.worker(**settings)
    mended.ready(worker)
    runs = enqueued(mended, **settings)
    mended.until(lambda: len(mended.ledger.entries([run.run_id for run in runs])) >= MANY, "stages run")
    os.kill(worker.children()[0], signal.SIGKILL)
    mended.survived(runs)
    mended.forget(*mended.workers)


def enqueued(site: ChaosSite, **settings: Any) -> list[RunHandle]:
    """Sagas, a third of which have to be undone."""
    bad = {"fail": {"do:s4": ["permanent", -1, "after"]}}
    given = [Submission({"nap": 0.02, **(bad if number % 3 == 2 else {})}) for number in range(MANY)]
    return site.client(**settings).enqueue_many("five", given)
