"""The owner of a process: what it is after it was declared dead."""

from __future__ import annotations

from stageflow_durable import Pipeline
from stageflow_durable.testing import engine_for_tests

LEASE = 10.0
NOTHING = Pipeline("nothing").stage("nothing", lambda _ctx: None)


def test_given_an_idle_process_that_was_declared_dead_when_it_beats_on_then_it_may_judge_others_again() -> None:
    with engine_for_tests([NOTHING], lease_seconds=LEASE) as engine:
        owner = engine.crew[0].owner
        owner.join()
        engine.clock.advance(LEASE * 2)
        engine.store.mark_expired()
        owner.beat()
        assert not owner.may_judge
        for _beat in range(8):
            engine.clock.advance(LEASE / 4)
            owner.beat()
        assert owner.may_judge, "else nobody takes from the next one that dies, where nobody else is left"


def test_given_a_process_that_has_retired_when_a_beat_was_still_on_its_way_then_it_does_not_come_back() -> None:
    with engine_for_tests([NOTHING], lease_seconds=LEASE) as engine:
        owner = engine.crew[0].owner
        owner.join()
        owner.retire()
        owner.beat()
        assert [worker.alive for worker in engine.workers()] == [False]
