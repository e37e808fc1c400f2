"""A commit whose answer was lost: found out by its attempt, never done twice, and no body runs again for it."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import RunStatus, StageOutput, TransientError
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state import known
from tests.conformance.engine.acts import DIAMOND, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

AWAY = StoreUnavailable("the connection is gone")
WHEN = pytest.mark.parametrize("when", ["before", "after"])


@WHEN
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("in_place", [1, 50])
def test_of_a_success(make_engine: MakeEngine, acts: Acts, when: Any, number: int, in_place: int) -> None:
    engine = make_engine(acts.line("a b c"), in_place_stages=in_place)
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "succeed", number=number, error=AWAY)
    engine.drain()
    assert acts.log == ["a", "b", "c"]
    assert handle.outputs() == {"a": "a", "b": "b", "c": "c"}
    assert handle.describe().stage("b").lost == 0


@WHEN
def test_of_a_branch(make_engine: MakeEngine, acts: Acts, when: Any) -> None:
    for number in range(1, 6):
        acts.log.clear()
        engine = make_engine(acts.graph(**DIAMOND))
        handle = engine.enqueue("graph", {})
        engine.faults.at(when, "succeed", number=number, error=AWAY)
        engine.drain()
        assert sorted(acts.log) == sorted(DIAMOND)
        assert handle.status() is RunStatus.SUCCEEDED


@WHEN
def test_of_a_wait(make_engine: MakeEngine, acts: Acts, when: Any) -> None:
    acts.play("a", TransientError("busy"))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "retry_later", error=AWAY)
    engine.drain()
    assert acts.log == ["a", "a"]
    assert [event.type for event in handle.history()].count("work.retry_attempt") == 1


@WHEN
def test_of_a_failure(make_engine: MakeEngine, acts: Acts, when: Any) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "fail", error=AWAY)
    engine.drain()
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATED


@WHEN
@pytest.mark.parametrize("number", [1, 2])
def test_of_an_undo(make_engine: MakeEngine, acts: Acts, when: Any, number: int) -> None:
    acts.play("c", StageOutput.reject("no"))
    engine = make_engine(acts.line("a b c"))
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "undo_done", number=number, error=AWAY)
    engine.drain()
    assert acts.log == ["a", "b", "c", "undo b ok", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATED


@WHEN
def test_of_an_undo_that_failed(make_engine: MakeEngine, acts: Acts, when: Any) -> None:
    acts.play("b", StageOutput.reject("no"))
    acts.play("undo a", FAILS("cannot"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "undo_failed", error=AWAY)
    engine.drain()
    assert acts.log == ["a", "b", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATION_FAILED


def test_a_database_that_is_away_for_a_while_is_waited_for_with_the_outcome_in_hand(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    for number in range(1, 6):
        engine.faults.at("before", "succeed", number=number, error=AWAY)
    engine.drain()
    assert acts.log == ["a", "b"]
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_database_that_stays_away_gets_the_stage_tried_again_when_it_is_back(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    for number in range(1, 60):
        engine.faults.at("before", "succeed", number=number, error=AWAY)
    engine.step()
    assert handle.status() is RunStatus.RUNNING
    engine.faults.clear()
    engine.drain()
    assert acts.log == ["a", "a", "b"]
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_zombie_whose_answer_was_lost_is_told_that_it_was_taken_over(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    zombie = engine.crew[0]

    def paused(_ctx: Any) -> str:
        engine.clock.advance(60)
        engine.sweep()
        engine.faults.at("before", "succeed", error=AWAY)
        return "late"

    acts.play("a", paused, "in time")
    handle = engine.enqueue("line", {})
    engine.step(zombie)
    engine.drain()
    assert handle.outputs() == {"a": "in time", "b": "b"}


@WHEN
@pytest.mark.parametrize("call", ["begin", "join", "create", "register"])
def test_of_what_comes_before_a_body(make_engine: MakeEngine, acts: Acts, when: Any, call: str) -> None:
    engine = make_engine(acts.line("a b"))
    engine.faults.at(when, call, error=AWAY)
    try:
        engine.enqueue("line", {}, idempotency_key="k")
    except StoreUnavailable:
        engine.enqueue("line", {}, idempotency_key="k")
    engine.drain()
    assert acts.log == ["a", "b"]
    assert [run.status for run in engine.runs()] == [RunStatus.SUCCEEDED]


def test_a_database_that_is_away_for_reads_uses_up_no_attempt(
    make_engine: MakeEngine, acts: Acts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for large outputs, which a begin does not bring along.
    monkeypatch.setattr(known, "read_saved", lambda _text: None)
    engine = make_engine(acts.line("a b"), in_place_stages=1)
    handle = engine.enqueue("line", {})
    engine.step()
    recovered: list[bool] = []
    for number in (1, 2, 3):
        engine.faults.at("before", "outputs", number=number, error=AWAY)
    engine.faults.meanwhile("before", "outputs", lambda: recovered.append(True), number=4)
    engine.drain()
    assert recovered, "it was away three times, and asked for a fourth time"
    assert handle.describe().stage("b").tries == 1
    assert handle.status() is RunStatus.SUCCEEDED
