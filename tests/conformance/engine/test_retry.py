"""Trying again: how often, when, and what is written about it."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, StageOutput, TransientError
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, StageState
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

EXACT = RetryPolicy(3, base_delay=8, max_delay=100, jitter="none")


def test_a_stage_that_fails_twice_has_three_attempts_and_nothing_behind_it_ran_before(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", TransientError("1"), StageOutput.retry("2"))
    engine = make_engine(acts.line("a b"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "a", "b"]
    assert [ctx.attempt for ctx in acts.contexts] == [1, 2, 3, 1]
    assert len({ctx.idempotency_key for ctx in acts.contexts[:3]}) == 1
    states = [(attempt.state, attempt.delay) for attempt in handle.describe().stage("a").attempts]
    assert states == [(AttemptState.RETRY, 8.0), (AttemptState.RETRY, 16.0), (AttemptState.OK, None)]


def test_a_stage_that_always_fails_is_exhausted_once_with_every_error_kept(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", *[ConnectionError(str(n)) for n in range(9)])
    engine = make_engine(acts.line("a b"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "a", "undo a unknown"]
    run = handle.describe()
    assert [attempt.error for attempt in run.stage("a").attempts] == [f"ConnectionError: {n}" for n in range(3)]
    assert (run.status, run.cause, run.error_stage, run.error) == (
        RunStatus.COMPENSATED,
        Cause.FAILED,
        "a",
        "ConnectionError: 2",
    )
    types = [event.type for event in handle.history()]
    assert (types.count("work.retry_attempt"), types.count("work.retry_exhausted")) == (2, 1)


def test_a_permanent_error_is_not_retried(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", FAILS("no"))
    engine = make_engine(acts.line("a b"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "undo a unknown"]
    assert "work.retry_exhausted" not in [event.type for event in handle.history()]


def test_retry_events_say_attempt_delay_error_and_category(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", TransientError("busy", retry_after=20))
    engine = make_engine(acts.line("a"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    [event] = [event for event in handle.history() if event.type == "work.retry_attempt"]
    expected = {"attempt": 1, "delay": 20.0, "error": "TransientError: busy", "category": "transient", "stage": "a"}
    assert expected.items() <= dict(event.data).items()


def test_a_remotes_word_is_a_lower_bound_and_does_not_disturb_the_policys_own_delays(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", StageOutput.retry("busy", after=50), StageOutput.retry("busy", after=0), "done")
    engine = make_engine(acts.line("a"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert [attempt.delay for attempt in handle.describe().stage("a").attempts] == [50.0, 16.0, None]


def test_a_wait_is_a_row_that_holds_no_worker_and_survives_a_lost_message(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.retry("busy", after=3))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.work()
    waiting = handle.describe()
    assert (waiting.status, waiting.stage("a").state) == (RunStatus.WAITING, StageState.WAITING)
    due = waiting.stage("a").wake_at
    assert due is not None
    assert due.timestamp() == pytest.approx(engine.clock.time() + 3, abs=0.1)
    engine.messages.lose_all()
    engine.drain()
    assert acts.log == ["a", "a"]


@pytest.mark.parametrize(("delay", "by_message"), [(5.0, True), (5.001, False)])
def test_short_delays_are_carried_by_a_message_and_long_ones_by_the_row_alone(
    make_engine: MakeEngine, acts: Acts, delay: float, by_message: bool
) -> None:
    acts.play("a", StageOutput.retry("busy", after=delay))
    engine = make_engine(acts.line("a"), short_delay_seconds=5)
    engine.enqueue("line", {})
    engine.work()
    assert (len(engine.messages) == 1) is by_message


def test_a_message_that_comes_early_finds_nothing_to_take(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.retry("busy", after=4))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.messages.copies = lambda _nudge: 2
    engine.work()
    engine.advance(1)
    engine.messages._waiting = [(0.0, number, nudge) for _due, number, nudge in engine.messages._waiting]
    engine.work()
    assert acts.log == ["a"]
    assert handle.status() is RunStatus.WAITING


def test_a_lost_worker_uses_up_no_attempt(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", DIES, TransientError("x"), DIES, TransientError("x"), "done")
    engine = make_engine(acts.line("a"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert [ctx.attempt for ctx in acts.contexts] == [1, 1, 2, 2, 3]
    stage = handle.describe().stage("a")
    assert (stage.tries, stage.lost, stage.state) == (3, 2, StageState.OK)


def test_the_policy_of_a_stage_goes_before_that_of_the_pipeline_and_that_before_the_engines(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def always(_ctx: Any) -> None:
        acts.log.append("x")
        raise ConnectionError

    once, twice = RetryPolicy(1), RetryPolicy(2, base_delay=0)
    pipelines = (
        Pipeline[Any, Any]("engine").stage("a", always),
        Pipeline[Any, Any]("pipeline", retry=twice).stage("a", always),
        Pipeline[Any, Any]("stage", retry=twice).stage("a", always, retry=once),
    )
    engine = make_engine(*pipelines, retry=EXACT)
    for pipeline, attempts in zip(pipelines, (3, 2, 1), strict=True):
        acts.log.clear()
        engine.enqueue(pipeline, {})
        engine.drain()
        assert len(acts.log) == attempts


def test_fail_with_a_message_is_permanent_unless_the_policy_says_otherwise(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.fail("no"))
    acts.play("b", StageOutput.fail("no"))
    stubborn = {"retry": RetryPolicy(2, base_delay=1, retry_on_fail=True)}
    engine = make_engine(acts.line("b a", b=stubborn), retry=EXACT)
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["b", "b", "a", "undo a unknown", "undo b ok"]


def test_no_attempt_begins_after_retry_for_however_long_the_body_took(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"), retry=RetryPolicy(9, retry_for=30))

    def slow(_ctx: Any) -> None:
        engine.advance(60)
        raise ConnectionError

    acts.play("a", slow)
    engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "undo a unknown"]


@pytest.mark.parametrize(
    "slip",
    [TypeError("x"), AttributeError("x"), NameError("x"), ImportError("x"), {"not": object()}],
    ids=lambda slip: type(slip).__name__,
)
def test_a_slip_in_the_code_parks_the_run_and_undoes_nothing(make_engine: MakeEngine, acts: Acts, slip: Any) -> None:
    acts.play("b", slip)
    engine = make_engine(acts.line("a b c"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert acts.log == ["a", "b"]
    assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.BUG, "b")


def test_an_output_that_cannot_be_saved_names_the_path_inside_it(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", {"items": [1, {"handle": object()}]})
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert "items[1].handle" in str(handle.describe().error)


def test_what_fails_before_the_body_is_called_leaves_nothing_to_undo(make_engine: MakeEngine, acts: Acts) -> None:
    def no_key(_ctx: Any) -> str:
        raise ConnectionError("cannot make a key")

    engine = make_engine(acts.line("a b", b={"key": no_key}), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "undo a ok"]
    assert len(handle.describe().stage("b").attempts) == 3


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


def test_given_an_error_whose_text_cannot_be_had_then_it_is_decided_upon_as_any_other(
    make_engine: MakeEngine, acts: Acts
) -> None:
    acts.play("a", Speechless(), Speechless(), Speechless())
    engine = make_engine(acts.line("a b"), retry=EXACT)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "a", "a", "undo a unknown"]
    assert handle.describe().error == "Speechless: (its text cannot be had: RuntimeError)"
