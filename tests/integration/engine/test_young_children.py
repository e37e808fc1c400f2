"""A pool whose children are replaced after each message: none lives for a lease, or for the interval of a sweep."""

from __future__ import annotations

import time

import pytest

from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import LANES, LEASE, Site

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(POSTGRES_VALKEY)]


def test_under_steady_work_they_find_a_worker_that_died(bare_site: Site) -> None:
    young = bare_site.worker(LANES, "--max-tasks-per-child", "1", queue="young", sweep_seconds=3)
    doomed = bare_site.worker(children=1, queue="doomed")
    bare_site.ready(young)
    bare_site.ready(doomed)
    held = bare_site.client(queue="doomed").enqueue("three", {"hold": {"s2": "doomed"}})
    bare_site.running(held, "s2")
    client = bare_site.client(queue="young")

    def feed() -> None:
        if bare_site.messages("young") < 10:
            for _ in range(10):
                client.enqueue("three", {})

    def found() -> bool:
        feed()
        return bool(bare_site.history(held, "stage.lost"))

    def is_steady() -> bool:
        feed()
        return time.monotonic() > began + 2 * LEASE

    began = time.monotonic()
    bare_site.until(is_steady, "the worker has renewed for a lease")
    doomed.kill()
    bare_site.until(found, "its work is taken over", within=10 * LEASE)
    client.close()
    bare_site.forget(young, doomed)
