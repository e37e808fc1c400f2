"""Runs that no worker here knows, and work whose owner learnt that it counts as dead."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus
from stageflow_durable.engine.memory import Memory
from stageflow_durable.model.work import Work
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine


def stranger(engine: InProcessEngine, acts: Acts) -> None:
    """Only a worker that knows another pipeline is left."""
    for worker in engine.crew:
        worker.owner.retire()
    engine.crew = [engine.hired(Pipeline[Any, Any]("other").stage("x", acts.stage))]


def hours(engine: InProcessEngine, count: int) -> None:
    """Sweeps every ten seconds; to look at everything after each would take minutes."""
    looks, engine.faults.watch = engine.faults.watch, lambda _point: None
    for _second in range(count * 360):
        engine.advance(10)
        engine.sweep()
        engine.work()
    engine.faults.watch = looks


def test_a_run_that_nobody_knows_is_offered_less_and_less_often(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    handle = engine.enqueue("line", {})
    hours(engine, 3)
    assert handle.status() is RunStatus.PENDING
    assert len(handle.history()) < 250


def test_it_is_carried_soon_after_a_worker_that_knows_it_has_come(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    handle = engine.enqueue("line", {})
    hours(engine, 1)
    engine.crew = [engine.hired()]
    came = engine.clock.time()
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert engine.clock.time() - came <= 70
    assert handle.describe().stage("a").tries == 1


def test_who_learnt_that_it_counts_as_dead_does_not_call_the_body(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), lease_seconds=10)
    handle = engine.enqueue("line", {})
    (paused,) = engine.crew
    granted = engine.store.succeed

    def and_is_paused(*given: Any, **more: Any) -> Any:
        done = granted(*given, **more)
        engine.store.__dict__["succeed"] = granted
        engine.clock.advance(25)  # longer than a lease, and nobody beats
        engine.sweep()
        paused.beat()
        return done

    engine.store.__dict__["succeed"] = and_is_paused
    engine.step()
    assert acts.log == ["a"]
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


def test_who_learns_between_the_beginning_and_the_body_that_it_counts_as_dead_does_not_call_it(
    make_engine: MakeEngine, acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(acts.line("a b"), lease_seconds=10, in_place_stages=1)
    handle = engine.enqueue("line", {})
    engine.step()
    (paused,) = engine.crew
    usual = Memory.snapshot

    def and_is_paused(memory: Memory, work: Work) -> Any:
        monkeypatch.setattr(Memory, "snapshot", usual)
        engine.clock.advance(25)  # longer than a lease, and nobody beats
        engine.sweep()
        paused.beat()
        return usual(memory, work)

    monkeypatch.setattr(Memory, "snapshot", and_is_paused)
    engine.step()
    assert acts.log == ["a"], "b has begun, and its body was not called"
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


def test_given_a_rolling_deploy_when_an_old_worker_meets_a_new_run_then_it_does_not_drop_the_stage_it_lacks(
    make_engine: MakeEngine, acts: Acts
) -> None:
    old, new = acts.line("a b"), acts.line("a b c")
    engine = make_engine(old)
    engine.deploy(old)
    engine.deploy(new)
    handle = engine.enqueue("line", {})
    upgraded, engine.crew = engine.crew, [engine.hired(old)]
    for _second in range(3):
        engine.work()
        engine.advance(1)
    assert (handle.status(), acts.log) == (RunStatus.PENDING, [])
    engine.crew = upgraded
    engine.advance(120)
    engine.drain()
    assert (handle.status(), acts.log) == (RunStatus.SUCCEEDED, ["a", "b", "c"])
