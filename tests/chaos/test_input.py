"""What goes in and what comes out: odd keys, outputs that cannot be saved, definitions that change under a run."""

from __future__ import annotations

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.errors import InvalidKey
from stageflow_durable.model.status import ParkReason
from tests.chaos.site import ChaosSite
from tests.integration.engine.claims import is_whole
from tests.integration.engine.pairs import POSTGRES_VALKEY, on

pytestmark = [pytest.mark.process, pytest.mark.chaos, on(POSTGRES_VALKEY)]

SAID = {"object": "deep", "nan": "ratio", "ring": "again", "nest": "nest", "50 MB": "bytes"}


def test_given_outputs_that_cannot_be_saved_then_each_run_is_parked_with_the_reason_and_its_worker_goes_on(
    site: ChaosSite,
) -> None:
    before = [worker.process.pid for worker in site.workers]
    runs = {how: site.engine.enqueue("five", {"fail": {"do:s2": [how, "mended", "after"]}}) for how in SAID}
    beside = site.load(3)
    assert site.at_rest(runs.values()) == {RunStatus.PARKED: len(SAID)}
    for how, run in runs.items():
        found = run.describe()
        assert (found.park_reason, found.error_stage) == (ParkReason.BUG, "s2"), how
        assert found.error is not None and len(found.error) < 2000
        assert SAID[how] in found.error, (how, found.error)
    site.survived(beside)
    assert [worker.process.pid for worker in site.workers if worker.lives] == before
    site.ledger.open("mended")
    for run in runs.values():
        site.engine.resume(run.run_id, reason="mended", actor="ops")
    assert site.at_rest(runs.values()) == {RunStatus.SUCCEEDED: len(SAID)}
    assert site.problems(runs.values()) == {}  # the effect of the attempt that could not be saved is there once


@pytest.mark.parametrize(
    "key", ["'; DROP TABLE stageflow_runs; --", '"quoted"', "schlüssel-鍵-🔑", "%s %(a)s {x}", "a" * 255, "-- \\ /*"]
)
def test_given_an_odd_key_when_it_is_used_twice_then_it_is_one_run_that_succeeds(site: ChaosSite, key: str) -> None:
    first = site.engine.enqueue("three", {}, idempotency_key=key)
    again = site.engine.enqueue("three", {}, idempotency_key=key)
    assert (again.run_id, again.replayed) == (first.run_id, True)
    site.at_rest([first])
    is_whole(site, first, 3)
    assert first.describe().key == key


@pytest.mark.parametrize(
    "key", ["with \x00 NUL", "k" * 10_240, "", "\ud800"], ids=["NUL", "10 KB", "empty", "surrogate"]
)
def test_given_a_key_that_no_database_keeps_then_it_is_refused_and_nothing_is_recorded(
    site: ChaosSite, key: str
) -> None:
    before = len(site.engine.runs(limit=1000))
    with pytest.raises(InvalidKey):
        site.engine.enqueue("three", {}, idempotency_key=key)
    assert len(site.engine.runs(limit=1000)) == before


def test_given_a_definition_that_changed_between_a_crash_and_its_recovery_then_only_what_no_longer_fits_is_parked(
    mended: ChaosSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variant, ends in {
        "its second stage is gone": (RunStatus.PARKED, ParkReason.DEFINITION),
        "its last stage is another": (RunStatus.SUCCEEDED, None),
    }.items():
        queue = variant.replace(" ", "-")
        old = mended.worker(queue=queue)
        run = mended.client(queue=queue).enqueue("three", {"hold": {"s2": queue}})
        mended.running(run, "s2")
        old.kill()
        monkeypatch.setenv("VARIANT", variant)
        new = mended.worker("tests.chaos.variants", queue=queue)
        mended.ledger.open(queue)
        mended.at_rest([run])
        assert (run.status(), run.describe().park_reason) == ends, variant
        mended.forget(old, new)
