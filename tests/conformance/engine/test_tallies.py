"""Counts that pages show: of a bounded number of rows each."""

from __future__ import annotations

import pytest

from stageflow_durable import ConcurrencyLimit, RunStatus
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """Eight runs, a second apart: by turns of "line" one that succeeded, failed and was parked, and one of "other"."""
    acts.play("b", *(["b", FAILS("no"), TypeError("a bug")] * 2))
    made = make_engine(acts.line("b", b={"compensate": None}), acts.line("c", name="other"))
    for number in range(8):
        made.advance(1)
        made.enqueue("line" if number % 4 < 3 else "other", {"n": number}, idempotency_key=str(number))
        if number % 4 < 3:
            made.drain()
    return made


def test_the_newest_runs_of_each_pipeline_are_tallied_and_those_of_a_status_counted(engine: InProcessEngine) -> None:
    line, other = engine.store.tallies(4)
    assert (line.pipeline, line.more, [str(status) for _at, status in line.newest]) == (
        "line",
        True,
        ["parked", "failed", "succeeded", "parked"],
    )
    assert (other.pipeline, other.more, len(other.newest)) == ("other", False, 2)
    assert [at for at, _status in line.newest] == sorted((at for at, _status in line.newest), reverse=True)
    assert engine.store.pipelines() == ["line", "other"]
    counted = engine.store.counted([RunStatus.FAILED, RunStatus.PENDING, RunStatus.CANCELLED], 1)
    assert counted == {RunStatus.FAILED: 1, RunStatus.PENDING: 1, RunStatus.CANCELLED: 0}
    assert engine.store.counted([RunStatus.FAILED], 9) == {RunStatus.FAILED: 2}


def test_runs_are_found_by_key_among_clients(engine: InProcessEngine) -> None:
    engine.advance(1)
    engine.enqueue("other", {"n": 1}, idempotency_key="3", client_id="web")
    found = engine.store.keyed("3", ["default", "web"])
    assert [(run.client_id, run.pipeline) for run in found] == [("web", "other"), ("default", "other")]
    assert [run.key for run in engine.store.keyed("3", ["web"])] == ["3"]
    assert engine.store.keyed("none", ["web"]) == engine.store.keyed("3", []) == []
    assert (engine.store.clients(1), engine.store.clients(9)) == (["web"], ["default", "web"])


def test_what_is_ready_is_counted_by_queue(engine: InProcessEngine) -> None:
    for number in range(2):
        engine.enqueue("other", {"n": number})
    (queued,) = engine.store.queued(9)
    assert (queued.queue, queued.ready >= 2, queued.oldest is not None) == (engine.settings.queue, True, True)
    assert [one.ready for one in engine.store.queued(1)] == [1]


def test_slots_of_limits_are_counted_with_who_holds_and_who_waits(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("b", b={"limits": [ConcurrencyLimit("bank", 1)]}))
    seen: list[tuple[int, int]] = []

    def look(*_given: object) -> None:
        (pool,) = engine.store.pooled(9)
        seen.append((pool.held, pool.waiting))
        assert (pool.name, pool.key, pool.amount) == ("bank", "", 1)
        assert [(run, stage, lost) for run, stage, lost in pool.holders] == [(first, "b", False)]

    acts.play("b", look, "b")
    first = engine.enqueue("line", {"n": 1}).run_id
    engine.drain()
    assert seen == [(1, 0)]
    (pool,) = engine.store.pooled(9)
    assert (pool.held, pool.waiting, pool.oldest, pool.holders) == (0, 0, None, ())


def test_what_who_watches_is_told_is_the_same_on_each_store(engine: InProcessEngine) -> None:
    measured = engine.store.measured(9)
    assert measured.parked == (("line", "bug", 2),)
    assert engine.store.measured(1).parked == (("line", "bug", 1),)
    assert (measured.now, measured.workers) == (engine.clock.time(), 1)
    assert measured.lateness == 0
    engine.store.my_tick("sweep at a broker", 1.0)
    engine.advance(5)
    assert engine.store.measured(9).sweep_age == 5
