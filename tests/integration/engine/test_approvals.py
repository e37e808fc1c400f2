"""Approvals under real workers: consumed once, whoever is killed around each of their steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stageflow_durable import Actor, RunHandle, RunStatus
from stageflow_durable.model.status import WaitingFor
from tests.integration.engine.pairs import POSTGRES_VALKEY, SQLITE_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(SQLITE_VALKEY, POSTGRES_VALKEY)]

ANN = Actor("ann", authenticated=True)


def asking(site: Site, given: Mapping[str, Any]) -> RunHandle:
    """A run that asks for its approval."""
    run = site.engine.enqueue("approved", given)
    site.until(lambda: run.describe().waiting_for is WaitingFor.APPROVAL, "it asks for its approval", within=60)
    return run


def approve(site: Site, run: RunHandle) -> None:
    site.engine.approve(run.run_id, "release", reason="it is right", actor=ANN)


def is_consumed_once(site: Site, run: RunHandle) -> bool:
    """By its history: asked for once, decided once, done once, and what it covers began behind it."""
    events = site.history(run)
    kinds = [event["type"] for event in events]
    done = [event for event in events if event["type"] == "stage.ok" and event["stage"] == "release"]
    assert (kinds.count("approval.asked"), kinds.count("operator.approve"), len(done)) == (1, 1, 1)
    begun = [
        e["seq"] for e in events if "s2" in (e.get("then", {}).get("stage"), e["type"] == "stage.begun" and e["stage"])
    ]
    assert min(begun) >= done[0]["seq"]
    return True


@pytest.mark.parametrize("whom", ["child", "group"])
@pytest.mark.parametrize("where", ["release", "s2"])
def test_a_worker_that_is_killed_while_it_asks_or_in_what_was_approved_is_followed_by_another(
    site: Site, where: str, whom: str
) -> None:
    run = asking_whoever_dies(site, {"kill": {where: whom}})
    approve(site, run)
    assert site.at_rest([run], within=60, revive=True) == {RunStatus.SUCCEEDED: 1}
    assert is_consumed_once(site, run)


def asking_whoever_dies(site: Site, given: Mapping[str, Any]) -> RunHandle:
    run = site.engine.enqueue("approved", given)

    def asks() -> bool:
        for worker in site.workers:
            worker.revive()
        return run.describe().waiting_for is WaitingFor.APPROVAL

    site.until(asks, "it asks for its approval", within=60)
    return run


@pytest.mark.parametrize("when", ["before", "after"])
def test_when_all_workers_are_killed_and_the_broker_is_emptied_around_a_decision_it_counts_once(
    bare_site: Site, when: str
) -> None:
    first = bare_site.worker()
    bare_site.ready(first)
    run = asking(bare_site, {})
    if when == "after":
        approve(bare_site, run)
    bare_site.forget(*bare_site.workers)
    with bare_site.broker.client(bare_site.number) as client:
        client.flushdb()
    if when == "before":
        approve(bare_site, run)
        with bare_site.broker.client(bare_site.number) as client:
            client.flushdb()
    bare_site.ready(bare_site.worker())
    assert bare_site.at_rest([run], within=60) == {RunStatus.SUCCEEDED: 1}
    assert is_consumed_once(bare_site, run)
