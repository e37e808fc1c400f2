"""How often a stage is tried, who carries the delay, and what is undone when it fails for good."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from stageflow_durable import RunCompensated, RunHandle, RunStatus
from stageflow_durable.model.status import AttemptState
from tests.integration.engine.claims import is_whole
from tests.integration.engine.pairs import POSTGRES_VALKEY, on
from tests.integration.engine.site import Site

pytestmark = [pytest.mark.process, on(POSTGRES_VALKEY, short_delay_seconds=1)]

FOR_GOOD = [([-1, "error"], 3), ([-1, "permanent"], 1), ([-1, "retry"], 3)]


def enqueue(site: Site, fail: Mapping[str, Any], **script: Any) -> RunHandle:
    return site.engine.enqueue("three", {"fail": fail, **script})


def waits(run: RunHandle, stage: str) -> list[float]:
    """Seconds between the end of an attempt and the beginning of the next."""
    tried = run.describe().stage(stage).attempts
    return [(after.began_at - before.ended_at).total_seconds() for before, after in pairwise(tried) if before.ended_at]


@pytest.mark.parametrize("how", ["error", "retry"])
def test_a_stage_that_fails_twice_is_called_three_times_and_its_run_succeeds(site: Site, how: str) -> None:
    run = enqueue(site, {"s2": [2, how]})
    site.at_rest([run])
    is_whole(site, run, 3)
    assert site.ledger.order(run.run_id) == ["s1", "s2", "s2", "s2", "s3"]
    assert [attempt.state for attempt in run.describe().stage("s2").attempts] == [
        AttemptState.RETRY,
        AttemptState.RETRY,
        AttemptState.OK,
    ]
    assert [event["attempt"] for event in site.history(run, "work.retry_attempt")] == [1, 2]


@pytest.mark.parametrize(("fail", "calls"), FOR_GOOD, ids=["always", "permanently", "by StageOutput.retry"])
def test_a_stage_that_fails_for_good_lets_nothing_after_it_begin_and_is_undone_in_reverse(
    site: Site, fail: list[Any], calls: int
) -> None:
    run = enqueue(site, {"s2": fail})
    assert site.at_rest([run]) == {RunStatus.COMPENSATED: 1}
    assert site.ledger.order(run.run_id) == ["s1", *["s2"] * calls]
    # Only a reject vouches that nothing happened: a stage that was called is undone too, first.
    assert site.ledger.order(run.run_id, "undo") == ["s2", "s1"]
    assert len(site.history(run, "work.retry_exhausted")) == (1 if calls == 3 else 0)
    with pytest.raises(RunCompensated, match="s2"):
        run.result(timeout=0)


def test_the_last_stage_that_fails_has_everything_undone_once_in_reverse(site: Site) -> None:
    run = enqueue(site, {"s3": [-1, "permanent"]})
    assert site.at_rest([run]) == {RunStatus.COMPENSATED: 1}
    assert site.ledger.order(run.run_id, "undo") == ["s3", "s2", "s1"]


def test_a_short_delay_of_a_first_link_is_carried_by_celerys_own_retry(site: Site) -> None:
    before = carried_by_celery(site)
    run = enqueue(site, {"s1": [2, "error"]})
    site.at_rest([run])
    is_whole(site, run, 3)
    assert site.history(run, "stage.nudged") == []
    assert carried_by_celery(site) - before == 2
    assert all(0.1 <= wait < 1.2 for wait in waits(run, "s1"))


def test_a_short_delay_of_a_stage_continued_in_place_is_carried_by_a_fresh_message(site: Site) -> None:
    before = carried_by_celery(site)
    run = enqueue(site, {"s3": [2, "error"]})
    site.at_rest([run])
    is_whole(site, run, 3)
    assert site.history(run, "stage.nudged") == []
    # The first came from an executor that had moved; the second from the fresh message, whose first link it was.
    assert carried_by_celery(site) - before == 1
    assert all(0.1 <= wait < 1.2 for wait in waits(run, "s3"))


def carried_by_celery(site: Site) -> int:
    """How many messages Celery retried so far."""
    return sum(worker.log().count("retry: Retry in") for worker in site.workers)


def test_a_long_delay_holds_no_worker_and_no_message(bare_site: Site) -> None:
    worker = bare_site.worker(children=1, queue="long")
    client = bare_site.client(queue="long")
    run = client.enqueue("three", {"fail": {"s1": [1, "later"]}})
    bare_site.until(lambda: run.status() is RunStatus.WAITING, "the run waits")
    # Its message is acknowledged a moment after the commit that shows; one that carried the delay would stay.
    bare_site.until(lambda: bare_site.messages("long") + bare_site.unacknowledged() == 0, "no message is left")
    assert run.status() is RunStatus.WAITING
    other = client.enqueue("three", {})
    bare_site.at_rest([other, run])
    is_whole(bare_site, other, 3)
    is_whole(bare_site, run, 3)
    assert run.describe().stage("s1").attempts[1].began_at > other.describe().stage("s3").attempts[0].began_at
    assert 1.2 <= waits(run, "s1")[0] < 4
    bare_site.forget(worker)
