"""After an undo that failed for good: going on or halting, trying again, giving up."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable import RunStatus
from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.status import StepState
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIAMOND, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
HALT = {"on_compensation_failure": "halt"}


def steps(engine: InProcessEngine, run_id: str) -> dict[str, StepState]:
    return {stage.name: stage.undo.state for stage in engine.run(run_id).stages if stage.undo is not None}


def test_older_ones_are_still_undone_and_the_run_says_it_failed(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("c", FAILS("no"))
    acts.play("undo b", FAILS("stuck"))
    engine = make_engine(acts.line("a b c"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log[3:] == ["undo c unknown", "undo b ok", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATION_FAILED


@pytest.mark.parametrize("in_place", [1, 50])
def test_with_halt_older_ones_are_left_until_a_person_tries_again(
    make_engine: MakeEngine, acts: Acts, in_place: int
) -> None:
    acts.play("c", FAILS("no"))
    acts.play("undo b", FAILS("stuck"))
    engine = make_engine(acts.line("a b c", options=HALT), in_place_stages=in_place)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log[3:] == ["undo c unknown", "undo b ok"]
    assert handle.status() is RunStatus.COMPENSATION_FAILED
    engine.compensate(handle.run_id, **WHO)
    engine.drain()
    assert acts.log[5:] == ["undo b ok", "undo a ok"]
    assert handle.status() is RunStatus.COMPENSATED


def test_with_halt_an_undo_that_runs_comes_to_its_end_and_one_that_waits_rests(
    make_engine: MakeEngine, acts: Acts
) -> None:
    pipeline = acts.graph(**DIAMOND)
    acts.play("join", FAILS("no"))
    engine = make_engine(replace(pipeline, on_compensation_failure="halt"), in_place_stages=1)
    handle = engine.enqueue("graph", {})

    def meanwhile(_ctx: object) -> None:
        acts.play("undo left", FAILS("stuck"))
        while steps(engine, handle.run_id)["left"] is not StepState.COMPENSATION_FAILED:
            engine.step(engine.hired())

    acts.play("undo right", meanwhile)
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATION_FAILED
    assert steps(engine, handle.run_id) == {
        "a": StepState.RECORDED,
        "left": StepState.COMPENSATION_FAILED,
        "right": StepState.COMPENSATED,
        "join": StepState.COMPENSATED,
        "z": StepState.VOID,
    }
    engine.compensate(handle.run_id, **WHO)
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED


def test_with_halt_an_undo_between_attempts_goes_on_when_a_person_tries_again(
    make_engine: MakeEngine, acts: Acts
) -> None:
    pipeline = acts.graph(**DIAMOND)
    acts.play("join", FAILS("no"))
    acts.play("undo right", ConnectionError("busy"))
    acts.play("undo left", FAILS("stuck"))
    engine = make_engine(replace(pipeline, on_compensation_failure="halt"), in_place_stages=1)
    handle = engine.enqueue("graph", {})
    while handle.status() is not RunStatus.COMPENSATION_FAILED:
        assert engine.step()
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATION_FAILED
    engine.compensate(handle.run_id, **WHO)
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert [acts.log.count(f"undo {name} ok") for name in ("a", "left", "right")] == [1, 2, 2]


class TestSkip:
    def failed(self, make_engine: MakeEngine, acts: Acts, **options: Any) -> tuple[InProcessEngine, str]:
        acts.play("c", FAILS("no"))
        acts.play("undo b", FAILS("stuck"))
        engine = make_engine(acts.line("a b c", options=options))
        handle = engine.enqueue("line", {})
        engine.drain()
        acts.log.clear()
        return engine, handle.run_id

    def test_a_person_gives_the_undo_up_with_a_reason(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine, run_id = self.failed(make_engine, acts)
        assert engine.compensate(run_id, skip=["b"], **WHO).status is RunStatus.COMPENSATED
        assert acts.log == []
        assert steps(engine, run_id)["b"] is StepState.SKIPPED
        skipped = next(event for event in engine.history(run_id) if event.type == "undo.skipped")
        assert (skipped.data["stage"], skipped.data["actor"], skipped.data["reason"]) == ("b", "ops", "because")

    def test_what_was_halted_by_it_is_undone(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine, run_id = self.failed(make_engine, acts, **HALT)
        engine.compensate(run_id, skip=["b"], **WHO)
        engine.drain()
        assert acts.log == ["undo a ok"]
        assert engine.run(run_id).status is RunStatus.COMPENSATED

    def test_one_that_is_not_owed_cannot_be_given_up(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine, run_id = self.failed(make_engine, acts)
        for stage in ("a", "nothing"):
            with pytest.raises(NotAllowed, match="owed are those of: b"):
                engine.compensate(run_id, skip=[stage], **WHO)
        assert engine.run(run_id).status is RunStatus.COMPENSATION_FAILED

    def test_of_a_run_that_is_not_at_rest_none_can_be_given_up(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a b"), in_place_stages=1)
        handle = engine.enqueue("line", {})
        engine.step()
        with pytest.raises(NotAllowed, match="not at rest"):
            engine.compensate(handle.run_id, skip=["a"], **WHO)
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED

    def test_before_anything_is_undone_the_rest_is_undone_without_it(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("c", FAILS("no"))
        engine = make_engine(acts.line("a b c", options={"on_failure": "park"}))
        handle = engine.enqueue("line", {})
        engine.drain()
        acts.log.clear()
        engine.compensate(handle.run_id, skip=["b"], **WHO)
        engine.drain()
        assert acts.log == ["undo c unknown", "undo a ok"]
        assert handle.status() is RunStatus.COMPENSATED
