"""While the broker is away a run's history does not grow, and nothing is forgotten."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stageflow_durable import Pipeline, RunStatus
from stageflow_durable.testing import engine_for_tests
from stageflow_durable.testing.engine import InProcessEngine

HOUR = 3600.0
SWEEP = 10.0


@pytest.fixture
def engine() -> Iterator[InProcessEngine]:
    pipeline = Pipeline("one").stage("only", lambda ctx: "done")
    with engine_for_tests([pipeline], in_place_stages=1, sweep_seconds=SWEEP) as made:
        yield made


def an_hour_of_sweeps(engine: InProcessEngine) -> None:
    until = engine.clock.time() + HOUR
    while engine.clock.time() < until:
        engine.sweep()
        engine.advance(SWEEP)


def nudged(engine: InProcessEngine, run_id: str) -> int:
    return [event.type for event in engine.history(run_id)].count("stage.nudged")


def test_given_an_hour_without_a_broker_when_it_is_back_then_one_sweep_carries_every_run_on(
    engine: InProcessEngine,
) -> None:
    engine.messages.away = True
    runs = [engine.enqueue("one", {}) for _ in range(3)]
    an_hour_of_sweeps(engine)
    assert [len(run.history()) for run in runs] == [1, 1, 1]
    engine.messages.away = False
    assert engine.sweep().nudged == 3
    engine.work()
    assert [run.status() for run in runs] == [RunStatus.SUCCEEDED] * 3
    assert [nudged(engine, run.run_id) for run in runs] == [1, 1, 1]


def test_given_a_lost_message_and_no_broker_when_it_is_swept_then_nothing_is_written(engine: InProcessEngine) -> None:
    run = engine.enqueue("one", {})
    engine.messages.lose_all()
    engine.messages.away = True
    an_hour_of_sweeps(engine)
    assert nudged(engine, run.run_id) == 0
    engine.messages.away = False
    engine.sweep()
    engine.work()
    assert run.status() is RunStatus.SUCCEEDED


def test_given_a_sweep_that_dies_between_publishing_and_noting_when_the_next_comes_then_the_stage_runs_once(
    engine: InProcessEngine,
) -> None:
    run = engine.enqueue("one", {})
    engine.messages.lose_all()
    engine.faults.at("before", "nudged")
    engine.advance(SWEEP)
    engine.sweep()
    engine.sweep()
    engine.drain()
    assert run.status() is RunStatus.SUCCEEDED
    assert [event.type for event in run.history()].count("stage.ok") == 1


def test_given_a_message_that_was_carried_before_the_sweep_noted_it_then_the_history_does_not_tell_of_it(
    engine: InProcessEngine,
) -> None:
    run = engine.enqueue("one", {})
    engine.messages.lose_all()
    engine.advance(SWEEP)
    places = engine.store.undelivered(engine.settings.queue, 0, 1.0, 60.0)
    (missed,) = engine.store.missed(places)
    engine.messages.publish((missed.nudge,))
    engine.work()
    assert engine.store.nudged([missed]) == 0
    assert (run.status(), nudged(engine, run.run_id)) == (RunStatus.SUCCEEDED, 0)
