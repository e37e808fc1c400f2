"""What a person reads in the log of a real worker, as Celery sets it up."""

from __future__ import annotations

import re

import pytest

from tests.integration.engine.pairs import SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY)]


def test_retries_and_failures_are_lines_of_celerys_log(bare_site: Site) -> None:
    worker = bare_site.worker(queue="told")
    run = bare_site.client(queue="told").enqueue("three", {"fail": {"s1": [1, "error"], "s2": [-1, "permanent"]}})
    bare_site.at_rest([run])
    bare_site.until(lambda: "failed for good" in worker.log(), "it is told")
    at = rf"/ForkPoolWorker-\d\] run {run.run_id} three"
    assert re.search(
        f"WARNING{at}/s1 attempt 1 of 3 failed: TransientError: the remote side is busy; next try in 0.1 s",
        worker.log(),
    )
    assert re.search(f"ERROR{at}/s2 attempt 1 of 3 failed for good: PermanentError: the card is stolen", worker.log())
    bare_site.forget(worker)


@pytest.mark.chaos
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_the_loss_of_a_broker_is_told_without_tracebacks_with_gossip_and_mingle_on(bare_site: Site, busy: bool) -> None:
    queue = "busy" if busy else "idle"
    worker = bare_site.worker(queue=queue, flags=("-l", "INFO"))
    bare_site.ready(worker)
    runs = [bare_site.client(queue=queue).enqueue("three", {"hold": {"s2": queue}}) for _ in range(busy)]
    for run in runs:
        bare_site.running(run, "s2")
    bare_site.broker.kill()
    bare_site.until(lambda: "Connection to broker lost" in worker.log(), "it is missed")
    bare_site.until(lambda: "Cannot connect" in worker.log(), "it is looked for")
    bare_site.broker.start()
    bare_site.until(lambda: worker.log().count("mingle: all alone") == 2, "it is back")
    bare_site.ledger.open(queue)
    bare_site.at_rest(runs)
    assert "Traceback" not in worker.log()
    assert worker.stop() == 0
    bare_site.forget(worker)
