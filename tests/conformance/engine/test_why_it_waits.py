"""Why a run does not move, in words: for every kind of wait until when, for which stage and try, and what to do."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, TransientError
from stageflow_durable.model.run import Wait, WaitKind
from stageflow_durable.model.status import StrandState
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIAMOND, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import set_strand

LATER = RetryPolicy(3, base_delay=50, max_delay=100, jitter="none")


def waits(engine: InProcessEngine, run_id: str) -> tuple[Wait, ...]:
    """What the run waits for, which a list says as well, as far as it knows: not how often a stage is tried."""
    full = engine.handle(run_id).describe().waits
    (listed,) = [run.waits for run in engine.runs() if run.run_id == run_id]
    assert [(wait.kind, wait.stage, wait.until) for wait in listed] == [(w.kind, w.stage, w.until) for w in full]
    return full


def test_a_run_that_runs_or_has_ended_waits_for_nothing(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    seen: list[Any] = []
    acts.play("a", lambda ctx: seen.append(waits(engine, ctx.run_id)))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert seen == [()]
    assert waits(engine, handle.run_id) == ()


def test_a_retry_says_which_try_of_how_many_and_when(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", TransientError("busy"))
    engine = make_engine(acts.line("a b"), retry=LATER)
    handle = engine.enqueue("line", {})
    engine.work()
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.stage, wait.fix) == (WaitKind.RETRY, "a", None)
    assert wait.text in ("try 2 of 3 of a, in 50 s", "try 2 of 3 of a, in 49 s")
    assert wait.until is not None
    assert wait.since is not None
    assert wait.until - wait.since == timedelta(seconds=50)
    engine.advance(52)
    (late,) = waits(engine, handle.run_id)
    assert late.text.startswith("try 2 of 3 of a, due for ")


def test_the_retry_of_an_undo_says_that_it_is_one(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", ValueError("no"))
    acts.play("undo b", TransientError("busy"))
    engine = make_engine(acts.line("a b"), retry=LATER)
    handle = engine.enqueue("line", {})
    engine.work()
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.stage) == (WaitKind.RETRY, "b")
    assert wait.text.startswith("try 2 of undo of b, in ")


def test_a_sleep_says_until_when(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a").sleep("cool-off", timedelta(hours=5)).stage("b", acts.stage))
    handle = engine.enqueue("line", {})
    engine.work()
    (wait,) = waits(engine, handle.run_id)
    assert wait.kind is WaitKind.SLEEP
    assert wait.until is not None
    assert wait.text.startswith(f"sleep cool-off until {wait.until:%Y-%m-%d %H:%M:%S} UTC, in ")


def test_a_turn_that_another_run_has(make_engine: MakeEngine, acts: Acts) -> None:
    pipeline = Pipeline[Any, Any]("line").stage("a", acts.stage, key=lambda _ctx: "order-1")
    engine = make_engine(pipeline, retry=LATER)
    acts.play("a", TransientError("busy"))
    _first, second = engine.enqueue("line", {}), engine.enqueue("line", {})
    engine.work()
    (wait,) = waits(engine, second.run_id)
    assert (wait.kind, wait.stage) == (WaitKind.LIMIT, "a")
    assert wait.text.startswith("a waits for its turn, which another run has; looked at again in ")


def test_a_message_that_nobody_has_taken_yet_and_how_many_there_are(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    engine.enqueue("line", {})
    engine.drain()  # by now a worker is alive
    handle = engine.enqueue("line", {})
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.queue) == (WaitKind.MESSAGE, engine.settings.queue)
    assert wait.text == f"message for a published 0 s ago to queue {engine.settings.queue}"
    engine.advance(40)
    (late,) = engine.handle(handle.run_id).describe().waits
    assert late.text == f"message for a published 40 s ago to queue {engine.settings.queue}, queue depth 1"


def test_a_queue_that_nobody_serves_and_what_to_do(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    engine.enqueue("line", {})
    engine.drain()  # by now a worker is alive
    handle = engine.enqueue("line", {}, queue="reports")
    engine.advance(780)
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.stage) == (WaitKind.WORKER, "a")
    assert "serves queue reports" in wait.text
    assert wait.text.endswith("; 13 min")
    assert wait.fix is not None
    assert "stageflow worker -Q reports" in wait.fix


def test_a_parked_run_waits_for_a_person(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", KeyError("a bug"))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.PARKED
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.stage, wait.text) == (WaitKind.PERSON, "a", "a has a bug")
    assert wait.fix == f"stageflow show {handle.run_id}"


def test_of_two_branches_both_are_said_what_is_due_first_first(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("left", TransientError("busy"))
    acts.play("right", TransientError("busy"), TransientError("busy"))
    engine = make_engine(acts.graph(**DIAMOND), retry=LATER)
    handle = engine.enqueue("graph", {})
    engine.work()
    both = waits(engine, handle.run_id)
    assert {wait.stage for wait in both} == {"left", "right"}
    assert [wait.until for wait in both] == sorted(wait.until for wait in both if wait.until)


# --- nothing waits for ever -------------------------------------------------------------------------------------------


def swept(engine: InProcessEngine, run_id: str, strand: str, **columns: Any) -> int:
    """How many runs a sweep repairs, after somebody has changed a row by hand."""
    watch = engine.faults.watch
    engine.faults.watch = lambda _point: None  # until it is repaired the invariants do not hold
    set_strand(engine, run_id, strand, **columns)
    engine.advance(31)
    report = engine.sweep()
    engine.faults.watch = watch
    assert report.problems == ()
    return report.repaired


def test_a_wait_without_a_wake_up_is_found_and_repaired_and_said(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), retry=LATER)
    acts.play("a", TransientError("busy"))
    handle = engine.enqueue("line", {})
    engine.work()
    assert swept(engine, handle.run_id, "a", wake_at=None, waiting_for="limit") == 1
    repaired = [event.data for event in handle.history() if event.type == "sweep.repaired"]
    assert repaired == [{"stage": "a", "strand": "a", "what": "it waited (limit) without end"}]
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_wait_for_somebodys_word_needs_no_time(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), retry=LATER)
    acts.play("a", TransientError("busy"))
    handle = engine.enqueue("line", {})
    engine.work()
    assert swept(engine, handle.run_id, "a", wake_at=None, waiting_for="signal") == 0
    (wait,) = waits(engine, handle.run_id)
    assert (wait.kind, wait.until, wait.text) == (WaitKind.SIGNAL, None, "a waits for a signal")
    swept(engine, handle.run_id, "a", wake_at=engine.clock.time(), waiting_for="time")
    engine.drain()


def test_a_run_of_which_nothing_is_left_to_move_goes_on_where_it_stood(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b c"), retry=LATER)
    acts.play("b", TransientError("busy"))
    handle = engine.enqueue("line", {})
    engine.work()
    rests = {"state": StrandState.REST.value, "wake_at": None, "waiting_for": None}
    assert swept(engine, handle.run_id, "a", **rests) == 1
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert acts.log.count("a") == 1
    assert acts.log.count("c") == 1


def test_an_undo_that_stands_nowhere_is_opened_again(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), retry=LATER)
    acts.play("b", ValueError("no"))
    acts.play("undo b", TransientError("busy"))
    handle = engine.enqueue("line", {})
    engine.work()
    done = {"state": StrandState.DONE.value, "wake_at": None, "waiting_for": None}
    assert swept(engine, handle.run_id, "undo:b", **done) == 1
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
