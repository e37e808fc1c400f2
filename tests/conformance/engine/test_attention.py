"""A person is told when a run needs one: once for each run and reason."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from stageflow_durable import Pipeline
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.sinks import RunEvent
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.testing.engine import StillGoing
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

BUG = TypeError("None has no amount")


@pytest.fixture
def told() -> list[RunEvent]:
    return []


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts, told: list[RunEvent]) -> InProcessEngine:
    asks = Pipeline[Any, Any]("asks").stage("a", acts.stage).approve("ok", acts.stage)
    return make_engine(acts.line("a b"), asks, on_attention=told.append)


def start(engine: InProcessEngine, pipeline: str = "line") -> str:
    run_id = engine.enqueue(pipeline, {"n": 1}).run_id
    with suppress(StillGoing):  # one that asks
        engine.drain()
    engine.deliver()
    return run_id


def resume(engine: InProcessEngine, run_id: str) -> None:
    engine.resume(run_id, reason="mended", actor="ops")
    engine.drain()
    engine.deliver()


def test_given_a_run_is_parked_then_a_person_is_told_why_and_what_to_type(
    engine: InProcessEngine, acts: Acts, told: list[RunEvent]
) -> None:
    acts.play("b", BUG)
    run_id = start(engine)
    (event,) = told
    assert (event.type, event.run_id, event.pipeline) == ("attention", run_id, "line")
    assert event.data == {
        "reason": "parked: has a bug",
        "stage": "b",
        "error": "TypeError: None has no amount",
        "next": f"stageflow show {run_id}",
    }


def test_they_are_told_once_for_each_run_and_reason_and_again_after_somebody_acted(
    engine: InProcessEngine, acts: Acts, told: list[RunEvent]
) -> None:
    acts.play("b", BUG, BUG)
    first = start(engine)
    resume(engine, first)
    assert [event.data["reason"] for event in told] == ["parked: has a bug"] * 2
    engine.store.note(first, "run.parked", {"park_reason": "bug", "stage": "b", "error": None})
    engine.deliver()
    assert len(told) == 2, "nobody has acted since"
    engine.store.note(first, "run.parked", {"park_reason": "poison", "stage": "b", "error": None})
    engine.deliver()
    assert [event.data["reason"] for event in told[2:]] == ["parked: kills its worker each time"]
    acts.play("b", BUG)
    start(engine)
    assert len(told) == 4, "another run is another matter"


def test_they_are_told_of_failures_of_undos_that_failed_and_of_approvals_and_of_nothing_else(
    engine: InProcessEngine, acts: Acts, told: list[RunEvent]
) -> None:
    start(engine)
    assert told == []
    acts.play("b", FAILS("declined"))
    acts.play("undo a", FAILS("the bank is gone"))
    start(engine)
    asked = start(engine, "asks")
    assert [event.data["reason"] for event in told] == ["compensation failed", "ok waits for an approval"]
    assert told[-1].run_id == asked


def test_secrets_are_not_told(engine: InProcessEngine, acts: Acts, told: list[RunEvent]) -> None:
    acts.play("b", TypeError("password=hunter2 for postgres://me:hunter2@db/shop"))
    start(engine)
    assert "hunter2" not in str(told[0].data)


def test_the_setting_is_told_beside_the_application(make_engine: MakeEngine, acts: Acts, tmp_path: Any) -> None:
    to = tmp_path / "told"
    engine = make_engine(acts.line("a b"), notify=["tee", str(to)], on_attention=lambda event: None)
    assert [sink.name for sink in engine.sinks] == ["attention", "notify"]
    acts.play("b", BUG)
    run_id = start(engine)
    assert f'"next":"stageflow show {run_id}"' in to.read_text(encoding="utf-8")


def test_what_nobody_can_call_is_refused_at_once(make_engine: MakeEngine, acts: Acts) -> None:
    with pytest.raises(ConfigurationError, match="on_attention='ops@example.org' is neither a function nor a sink"):
        make_engine(acts.line("a"), on_attention="ops@example.org")
