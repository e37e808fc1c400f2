"""The owner of a process: what it is after it was declared dead."""

from __future__ import annotations

import pytest

from stageflow_durable import Pipeline
from stageflow_durable.errors import StoreUnavailable
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


def test_given_a_served_queue_that_cannot_be_noted_when_it_beats_then_the_lease_holds_and_it_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with engine_for_tests([NOTHING], lease_seconds=LEASE) as engine:
        owner = engine.crew[0].owner
        owner.join()
        engine.faults.at("before", "served", error=ValueError("value too long"))
        owner.served("q" * 300, 1.0)
        for _beat in range(8):
            engine.clock.advance(LEASE / 4)
            owner.beat()
        assert owner.may_judge, "else it buries nobody as long as it lives"
        assert caplog.text.count("could not be noted") == 1


def test_given_a_database_that_is_away_while_what_was_served_is_noted_then_the_next_beat_notes_it() -> None:
    with engine_for_tests([NOTHING], lease_seconds=LEASE) as engine:
        owner = engine.crew[0].owner
        owner.join()
        owner.served("lane", 1.0)
        engine.faults.at("before", "served", error=StoreUnavailable("away"))
        with pytest.raises(StoreUnavailable):
            owner.beat()
        owner.beat()
        assert [point.call for point in engine.faults.trace].count("served") == 3, "refused, and then done"
