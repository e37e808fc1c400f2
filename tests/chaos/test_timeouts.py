"""Bodies and undos that take longer than they may: told at the limit, and ended with their process when deaf."""

from __future__ import annotations

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.engine.interrupt import GRACE_SECONDS
from stageflow_durable.model.status import ParkReason
from tests.chaos.app import SAGAS
from tests.chaos.site import ChaosSite
from tests.integration.engine.pairs import POSTGRES_VALKEY, on

pytestmark = [pytest.mark.process, pytest.mark.chaos, pytest.mark.slow, on(POSTGRES_VALKEY, max_recoveries=3)]

STAGES = list(SAGAS["bound"])
FAILS = {"do:s3": ["permanent", -1, "after"]}


def test_given_a_sync_body_slower_than_its_timeout_then_the_attempt_ends_there_and_the_next_one_succeeds(
    site: ChaosSite,
) -> None:
    before = {pid for worker in site.workers for pid in worker.children()}
    run = site.engine.enqueue("bound", {"fail": {"do:s2": ["slow", 2, "after"]}})
    assert site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    assert site.problems([run]) == {}
    tries = site.history(run, "work.retry_attempt")
    assert [(told["stage"], "timeout of 1 s" in told["error"]) for told in tries] == [("s2", True)] * 2
    assert site.ledger.bodies([run.run_id])[run.run_id, "s2"] == 3
    assert {pid for worker in site.workers for pid in worker.children()} == before


def test_given_a_sync_body_that_ignores_its_timeout_then_its_process_is_ended_and_another_does_the_stage_again(
    site: ChaosSite,
) -> None:
    leaders = [worker.process.pid for worker in site.workers]
    run = site.engine.enqueue("bound", {"die": {"do:s2": ["deaf", "after"]}})
    beside = site.load(6)
    assert site.at_rest([run]) == {RunStatus.SUCCEEDED: 1}
    assert site.problems([run]) == {}
    (first, second) = run.describe().stage("s2").attempts
    assert first.owner_pid != second.owner_pid
    assert [lost["stage"] for lost in site.history(run, "stage.lost")] == ["s2"]
    waited = (second.began_at - first.began_at).total_seconds()
    assert 1.0 + GRACE_SECONDS - 0.1 < waited < 1.0 + GRACE_SECONDS + 4.0
    site.survived(beside)
    assert [worker.process.pid for worker in site.workers if worker.lives] == leaders


def test_given_a_body_that_ignores_its_timeout_each_time_then_its_run_is_parked_as_poison(site: ChaosSite) -> None:
    run = site.engine.enqueue("bound", {"die": {"do:s2": ["deaf ones", "after"]}})
    assert site.at_rest([run], within=60) == {RunStatus.PARKED: 1}
    assert run.describe().park_reason is ParkReason.POISON
    assert site.trace(run).done == ["s1", "s2"]


@pytest.mark.parametrize(
    "trouble",
    [{"fail": {"undo:s2": ["slow", 2, "after"]}}, {"die": {"undo:s2": ["deaf", "after"]}}],
    ids=["slow", "deaf"],
)
def test_given_an_undo_that_takes_longer_than_its_timeout_then_it_is_called_again_and_each_effect_is_undone_once(
    site: ChaosSite, trouble: dict[str, dict[str, list[object]]]
) -> None:
    run = site.engine.enqueue("bound", {**trouble, "fail": {**FAILS, **trouble.get("fail", {})}})
    assert site.at_rest([run]) == {RunStatus.COMPENSATED: 1}
    assert site.problems([run]) == {}
    assert site.trace(run).undone == STAGES[::-1]
    assert site.ledger.bodies([run.run_id], "undo")[run.run_id, "s2"] == (3 if "fail" in trouble else 2)
    assert len(site.history(run, "work.compensation_executed")) == len(STAGES)
