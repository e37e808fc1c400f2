"""Runs that wait for signals under real workers: none is lost, doubled or late, whoever is killed meanwhile."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from stageflow_durable import RunHandle, RunStatus, Submission
from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.status import WaitingFor
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_VALKEY)]


def started(site: Site, count: int, pipeline: str = "waiting") -> list[RunHandle]:
    """Runs of a pipeline with a wait."""
    return site.engine.enqueue_many(pipeline, [Submission({})] * count)


def waiting(site: Site, count: int) -> list[RunHandle]:
    """Runs that have come to their wait."""
    runs = started(site, count)

    def came_there() -> bool:
        found = site.engine.runs(pipeline="waiting", limit=count)
        return all(run.waiting_for is WaitingFor.SIGNAL for run in found)

    site.until(came_there, "all runs wait", within=60)
    return runs


def sent(send: Callable[[RunHandle], object], runs: Iterable[RunHandle]) -> list[object]:
    """What becomes of sending each a signal, from several threads."""
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(send, runs))


def test_many_waits_leave_no_message_and_each_ends_with_its_own_signal_however_often_it_is_sent(site: Site) -> None:
    runs = waiting(site, 200)
    assert site.messages() + site.unacknowledged() == 0

    def send(run: RunHandle) -> bool:
        return site.engine.signal(run.run_id, "word", {"token": run.run_id}, idempotency_key="k").replayed

    doubled = [*runs, *runs]
    random.Random(7).shuffle(doubled)
    assert Counter(sent(send, doubled)) == {False: 200, True: 200}
    assert site.at_rest(runs, within=60) == {RunStatus.SUCCEEDED: 200}
    assert all(run.outputs()["word"] == {"token": run.run_id} for run in runs)
    assert set(site.ledger.bodies([run.run_id for run in runs]).values()) == {1}


def test_signals_that_come_while_the_runs_are_on_their_way_are_kept_or_end_the_wait(site: Site) -> None:
    runs = started(site, 100)
    sent(lambda run: site.engine.signal(run.run_id, "word", {"token": run.run_id}), runs)
    assert site.at_rest(runs, within=60) == {RunStatus.SUCCEEDED: 100}
    assert all(run.outputs()["word"] == {"token": run.run_id} for run in runs)
    assert set(site.ledger.bodies([run.run_id for run in runs]).values()) == {1}


def test_at_the_end_of_its_time_a_wait_ends_with_its_signal_or_has_failed_and_never_both(site: Site) -> None:
    runs, chance = started(site, 60, "briefly"), random.Random(7)
    moments = {run.run_id: time.monotonic() + chance.uniform(0.2, 1.5) for run in runs}

    def send(run: RunHandle) -> str | None:
        time.sleep(max(0.0, moments[run.run_id] - time.monotonic()))  # between real processes
        try:
            site.engine.signal(run.run_id, "word", {"token": "t"})
        except NotAllowed:
            return None
        return run.run_id

    took = set(sent(send, sorted(runs, key=lambda run: moments[run.run_id]))) - {None}
    site.at_rest(runs, within=60)
    ended = {run.run_id: run.status() for run in runs}
    assert {run for run, status in ended.items() if status is RunStatus.SUCCEEDED} == took
    assert set(ended.values()) <= {RunStatus.SUCCEEDED, RunStatus.COMPENSATED}


def test_when_all_workers_are_killed_and_the_broker_is_emptied_a_run_waits_on_and_takes_its_signal(
    bare_site: Site,
) -> None:
    first = bare_site.worker()
    bare_site.ready(first)
    (run,) = waiting(bare_site, 1)
    bare_site.forget(*bare_site.workers)
    with bare_site.broker.client(bare_site.number) as client:
        client.flushdb()
    bare_site.engine.signal(run.run_id, "word", {"token": "meanwhile"})
    with bare_site.broker.client(bare_site.number) as client:
        client.flushdb()
    bare_site.ready(bare_site.worker())
    assert bare_site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    assert run.outputs()["word"] == {"token": "meanwhile"}
