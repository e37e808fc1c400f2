"""Runs that sleep under real workers: they cost nothing meanwhile, outlive everybody, and wake at their time."""

from __future__ import annotations

import random
import time

import pytest

from stageflow_durable import RunHandle, RunStatus, Submission
from stageflow_durable.model.status import WaitingFor
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_VALKEY)]

LATE = 2.0
"""Seconds by which one may be late here, beside other tests; `make bench` says how late they are on a calm machine."""


def asleep(site: Site, *, until: list[float]) -> list[RunHandle]:
    """Runs that have come to their sleep, which lasts until these moments."""
    submissions = [Submission({"until": moment}) for moment in until]
    runs = site.engine.enqueue_many("asleep", submissions)
    waiting = dict.fromkeys(run.run_id for run in runs)

    def came_there() -> bool:
        found = {run.run_id: run.waiting_for for run in site.engine.runs(pipeline="asleep", limit=len(until))}
        return all(found[run_id] is WaitingFor.TIME for run_id in waiting)

    site.until(came_there, "all runs sleep", within=60)
    return runs


def test_many_sleeps_at_random_moments_are_hardly_late_and_leave_no_message_behind(site: Site) -> None:
    now, chance = time.time(), random.Random(7)
    runs = asleep(site, until=[now + chance.uniform(6, 11) for _number in range(200)])
    assert time.time() < now + 6, "this machine was too slow for the test to say anything"
    assert site.messages() + site.unacknowledged() == 0
    assert site.at_rest(runs, within=60) == {RunStatus.SUCCEEDED: len(runs)}
    late = sorted(began - until for run in runs for until, began in [_woke(run)])
    assert late[0] >= 0
    assert late[-1] <= LATE
    assert set(site.ledger.bodies([run.run_id for run in runs]).values()) == {1}


def _woke(run: RunHandle) -> tuple[float, float]:
    """Until when it was to sleep, and when it woke."""
    events = {event.type: event for event in run.history()}
    return float(events["stage.asleep"].data["until"]), events["stage.woken"].at.timestamp()


def test_when_all_workers_are_killed_and_the_broker_is_emptied_a_run_sleeps_on_and_wakes(bare_site: Site) -> None:
    first = bare_site.worker()
    bare_site.ready(first)
    (run,) = asleep(bare_site, until=[time.time() + 6])
    bare_site.forget(*bare_site.workers)
    with bare_site.broker.client(bare_site.number) as client:
        client.flushdb()
    bare_site.ready(bare_site.worker())
    assert bare_site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
