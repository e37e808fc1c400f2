"""Runs that no worker here knows, and work whose owner learnt that it counts as dead."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, StageOutput
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.engine.run_outputs import RunOutputs
from stageflow_durable.model.work import Work
from stageflow_durable.store.values import Identity
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine


def stranger(engine: InProcessEngine, acts: Acts) -> None:
    """Only a worker that knows another pipeline is left."""
    for worker in engine.crew:
        worker.owner.retire()
    engine.crew = [engine.hired(Pipeline[Any, Any]("other").stage("x", acts.stage))]


def an_hour(engine: InProcessEngine) -> None:
    """Sweeps once a minute; to look at everything after each would take minutes."""
    looks, engine.faults.watch = engine.faults.watch, lambda _point: None
    for _minute in range(60):
        engine.advance(60)
        engine.sweep()
        engine.work()
    engine.faults.watch = looks


def test_a_run_that_nobody_knows_costs_no_message_and_no_event_however_long_it_waits(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    handle = engine.enqueue("line", {})
    engine.work()
    published, history = engine.messages.published, handle.history()
    an_hour(engine)
    assert handle.status() is RunStatus.PENDING
    assert (engine.messages.published, handle.history()) == (published, history)


def test_a_worker_that_knows_it_is_offered_it_as_soon_as_it_has_joined(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    handle = engine.enqueue("line", {})
    for _minute in range(5):
        engine.work()
        engine.advance(60)
        engine.sweep()
    engine.crew = [engine.hired()]
    engine.advance(1)
    engine.sweep()
    engine.work()
    assert handle.status() is RunStatus.SUCCEEDED
    assert handle.describe().stage("a").tries == 1


def test_while_a_worker_knows_it_it_is_offered_again_within_seconds(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    knows, lacks = engine.crew[0], engine.hired(Pipeline[Any, Any]("other").stage("x", acts.stage))
    engine.crew.append(lacks)
    engine.advance(0)
    handle = engine.enqueue("line", {})
    history = handle.history()
    for _second in range(120):  # it is busy, and the message reaches the other one each time
        while engine.step(lacks):
            pass
        engine.advance(1)
        engine.sweep()
    assert engine.messages.published < 45, "the pause grows"
    assert handle.history() == history, "nothing happened that anybody has to read about"
    waited = 0
    while handle.status() is not RunStatus.SUCCEEDED and waited < 60:
        while engine.step(knows):
            pass
        waited += 1
        engine.advance(1)
        engine.sweep()
    assert waited <= 6, "the pause is bounded"


def test_runs_of_two_pipelines_on_one_queue_are_done_within_seconds(make_engine: MakeEngine, acts: Acts) -> None:
    other = Pipeline[Any, Any]("other").stage("x", acts.stage)
    engine = make_engine(acts.line("a b"), other)
    engine.crew = [engine.hired(acts.line("a b")), engine.hired(other)]
    engine.advance(0)
    handles = [engine.enqueue(name, {}) for name in ("line", "other") * 6]
    began = engine.clock.time()
    while engine.crew and any(handle.status() is not RunStatus.SUCCEEDED for handle in handles):
        engine.crew.reverse()  # who comes first is nobody's choice
        engine.step(engine.crew[0])
        if not len(engine.messages):
            engine.advance(1)
            engine.sweep()
    assert engine.clock.time() - began <= 10


def test_beside_a_worker_of_an_older_release_which_may_know_it_it_is_offered_less_and_less_often(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    engine.store.join(Identity("host", 1, "older"), 10_000.0)  # it says nothing of itself
    handle = engine.enqueue("line", {})
    published = engine.messages.published
    for _second in range(600):
        engine.work()
        engine.advance(1)
        engine.sweep()
    assert 10 <= engine.messages.published - published <= 20
    assert handle.describe().missing is None, "nobody can say that none knows it"
    assert engine.runs(attention=True) == []


def test_what_no_worker_knows_is_reported_with_the_reason_and_the_way_out(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    stranger(engine, acts)
    handle = engine.enqueue("line", {})
    engine.work()
    engine.advance(20)
    found = handle.describe()
    assert (found.status, found.waiting_for) == (RunStatus.PENDING, "worker")
    assert found.missing is not None
    assert found.missing.message == "no live worker knows line v1; live workers know: other v1"
    (listed,) = engine.runs(attention=True)
    assert (listed.run_id, listed.missing) == (handle.run_id, found.missing)
    engine.crew = [engine.hired()]
    engine.drain()
    assert (handle.describe().missing, engine.runs(attention=True)) == (None, [])


def test_an_edited_definition_that_no_worker_has_is_told_from_an_unknown_pipeline(
    make_engine: MakeEngine, acts: Acts
) -> None:
    old, new = acts.line("a b"), acts.line("a b c")
    engine = make_engine(old)
    engine.deploy(old)
    engine.advance(1)
    engine.pipelines = {"line": new}  # where runs are enqueued, the code is newer
    engine._registered_in = 0
    handle = engine.enqueue("line", {})
    engine.work()
    missing = handle.describe().missing
    assert missing is not None
    assert missing.kind == "definition"
    assert missing.message.endswith("as this run was enqueued with it; live workers know line v1")


def test_a_queue_that_no_worker_serves_is_reported_and_so_is_the_lack_of_workers(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    engine.advance(0)
    handle = engine.enqueue("line", {}, queue="nobodys")
    engine.advance(20)
    missing = handle.describe().missing
    assert missing is not None
    assert (missing.kind, missing.command) == ("queue", "stageflow worker -Q nobodys")
    assert [run.missing for run in engine.runs(attention=True)] == [missing]
    for worker in engine.crew:
        worker.owner.retire()
    engine.crew = []
    (listed,) = engine.runs(attention=True)
    assert listed.missing is not None
    assert listed.missing.kind == "worker"


def test_a_retry_that_waits_for_its_time_is_not_woken_by_who_joins(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    acts.play("a", StageOutput.retry("later", after=300))
    handle = engine.enqueue("line", {})
    engine.work()
    engine.crew.append(engine.hired())
    engine.advance(1)
    engine.sweep()
    engine.work()
    assert (handle.status(), acts.log) == (RunStatus.WAITING, ["a"])
    assert handle.describe().missing is None


def test_a_sweep_publishes_nothing_that_only_another_brokers_workers_take(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    engine.crew[0].profile = elsewhere = replace(engine.crew[0].profile, broker="redis://other:6379/0")
    engine.crew[0].owner._profile = elsewhere
    engine.crew[0].beat()
    acts.play("a", StageOutput.retry("later", after=20))
    ready, due = engine.enqueue("line", {}), engine.enqueue("line", {})
    engine.step()
    engine.messages.lose_all()
    published = engine.messages.published
    for _second in range(40):
        engine.advance(1)
        engine.sweep()
    assert engine.messages.published == published
    theirs = Sweeper(engine.store, engine.messages, Patience(10.0), broker=elsewhere.broker)
    for _due_and_lost in range(2):
        theirs.sweep()
        engine.work()
    assert [ready.status(), due.status()] == [RunStatus.SUCCEEDED] * 2


def test_what_a_run_was_handed_back_for_is_not_counted_as_an_attempt(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    lacks = engine.hired(Pipeline[Any, Any]("other").stage("x", acts.stage))
    engine.crew.append(lacks)
    engine.advance(0)
    handle = engine.enqueue("line", {})
    assert engine.step(lacks)
    engine.crew.remove(lacks)
    engine.drain()
    assert [stage.tries for stage in handle.describe().stages] == [1, 1]


def test_who_learnt_that_it_counts_as_dead_does_not_call_the_body(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), lease_seconds=10)
    handle = engine.enqueue("line", {})
    (paused,) = engine.crew

    def is_paused() -> None:
        engine.clock.advance(25)  # longer than a lease, and nobody beats
        engine.sweep()
        paused.beat()

    engine.faults.meanwhile("after", "succeed", is_paused)
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
    usual = RunOutputs.snapshot

    def and_is_paused(saved_outputs: RunOutputs, work: Work) -> Any:
        monkeypatch.setattr(RunOutputs, "snapshot", usual)
        engine.clock.advance(25)  # longer than a lease, and nobody beats
        engine.sweep()
        paused.beat()
        return usual(saved_outputs, work)

    monkeypatch.setattr(RunOutputs, "snapshot", and_is_paused)
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
