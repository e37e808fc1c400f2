"""Thousands of runs behind a slow worker: what waits in the broker is bounded, and nothing is published twice."""

from __future__ import annotations

import pytest

from stageflow_durable import Submission
from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY)]

BACKLOG = 2000
UNDER_WAY = 4
"""Messages that may be with the worker beside those that wait."""


def test_a_backlog_of_thousands_behind_a_slow_worker_is_published_once(bare_site: Site) -> None:
    client = bare_site.client(queue="backlog")
    submissions = [Submission({"nap": 0.002}) for _ in range(BACKLOG)]
    runs = client.enqueue_many("one", submissions)
    worker = bare_site.worker(children=1, queue="backlog")
    most = 0

    def drained() -> bool:
        nonlocal most
        bare_site.engine.sweep()
        waiting = bare_site.messages("backlog")
        most = max(most, waiting + bare_site.unacknowledged())
        return waiting == 0

    bare_site.until(drained, "the backlog is worked off", within=80)
    bare_site.at_rest(runs[-20:])
    assert len(runs) == BACKLOG and most <= BACKLOG + UNDER_WAY
    assert set(bare_site.ledger.bodies([run.run_id for run in runs]).values()) == {1}
    assert worker.log().count("] received") == BACKLOG  # no duplicate was published, early or late
    bare_site.forget(worker)
