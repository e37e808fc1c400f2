"""SagaOrchestrator, CompensatingActionStage and CheckpointStage: stages and their options under the tracker's names."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, StageKind, Undo
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.retry import RetryStage
from stageflow_durable.saga import CheckpointStage, CompensatingActionStage, SagaOrchestrator
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


def trip(acts: Acts) -> SagaOrchestrator:
    saga = SagaOrchestrator("trip").step("hotel", acts.stage, undo=acts.undo).step("map", acts.stage)
    return saga.step("flight", acts.stage, undo=acts.undo)


class TestOrchestrator:
    def test_a_saga_that_ends_well_gives_its_outputs(self, make_engine: MakeEngine, acts: Acts) -> None:
        saga = trip(acts)
        outcome = saga.execute(make_engine(saga.pipeline), {"who": "Ada"})
        assert outcome.succeeded
        assert outcome.outputs == {name: name for name in ("hotel", "map", "flight")}
        assert (outcome.completed, outcome.undone, outcome.left) == (("hotel", "map", "flight"), (), ())

    def test_one_that_fails_is_undone_and_says_what_was_left(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("flight", FAILS("full"))
        saga = trip(acts)
        outcome = saga.execute(make_engine(saga.pipeline), {"who": "Ada"})
        assert (outcome.status, outcome.error) == (RunStatus.COMPENSATED, "PermanentError: full")
        assert (outcome.undone, outcome.left) == (("hotel", "flight"), ("map",))
        assert acts.log == ["hotel", "map", "flight", "undo flight unknown", "undo hotel ok"]

    def test_a_failed_undo_is_left(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("flight", FAILS("full"))
        acts.play("undo hotel", FAILS("closed"))
        saga = trip(acts)
        outcome = saga.execute(make_engine(saga.pipeline), {})
        assert (outcome.status, outcome.left) == (RunStatus.COMPENSATION_FAILED, ("hotel", "map"))

    def test_steps_may_be_stage_objects(self, make_engine: MakeEngine, acts: Acts) -> None:
        hotel = CompensatingActionStage(acts.stage, acts.undo, name="hotel")
        saga = SagaOrchestrator("trip", hotel, on_compensation_failure="halt")
        assert saga.pipeline.on_compensation_failure == "halt"
        assert saga.execute(make_engine(saga.pipeline), {}).completed == ("hotel",)


class TestCompensatingAction:
    def test_it_brings_its_undo_along(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("b", FAILS("no"))
        pipeline = Pipeline[Any, Any]("line").stage("a", CompensatingActionStage(acts.stage, acts.undo, name="a"))
        engine = make_engine(pipeline.stage("b", acts.stage))
        engine.enqueue("line", {})
        engine.drain()
        assert acts.log == ["a", "b", "undo a ok"]

    def test_it_goes_together_with_a_retry(self, acts: Acts) -> None:
        policy, undo = RetryPolicy(7), Undo(acts.undo, RetryPolicy(2))
        inner = CompensatingActionStage(acts.stage, undo, name="a", kind=StageKind.AGENT)
        spec = Pipeline[Any, Any]("line").stage("a", RetryStage(inner, policy)).by_name["a"]
        assert (spec.retry, spec.compensate, spec.kind) == (policy, undo, StageKind.AGENT)

    def test_its_name_is_the_actions(self, acts: Acts) -> None:
        assert CompensatingActionStage(acts.stage, acts.undo).name == "stage"

    def test_what_cannot_be_called_and_two_undos_are_refused(self, acts: Acts) -> None:
        with pytest.raises(ConfigurationError, match="compensation 5 cannot be called"):
            CompensatingActionStage(acts.stage, 5, name="a")  # type: ignore[arg-type]  # that is the mistake
        with pytest.raises(ConfigurationError, match="give name="):
            CompensatingActionStage(partial(acts.stage), acts.undo)
        with pytest.raises(ConfigurationError, match="an undo already"):
            CompensatingActionStage(CompensatingActionStage(acts.stage, acts.undo, name="a"), acts.undo)


class TestCheckpoint:
    def test_it_names_a_place_to_fork_from(self, make_engine: MakeEngine, acts: Acts) -> None:
        pipeline = acts.line("a").stage("paid", CheckpointStage("paid", lambda ctx: {"order": ctx.input["order"]}))
        engine = make_engine(pipeline.stage("b", acts.stage))
        first = engine.enqueue("line", {"order": 7})
        engine.drain()
        kept = first.outputs()["paid"]
        assert (kept["stages"], kept["captured"]) == (["a"], {"order": 7})
        fork = engine.fork(first.run_id, "paid")
        engine.drain()
        assert acts.log == ["a", "b", "b"]
        assert fork.outputs()["paid"] == kept

    def test_without_a_capture_it_keeps_the_fingerprint_alone(self, make_engine: MakeEngine, acts: Acts) -> None:
        engine = make_engine(acts.line("a").stage("here", CheckpointStage("here")))
        first = engine.enqueue("line", {})
        engine.drain()
        assert first.outputs()["here"]["captured"] is None
        assert len(first.outputs()["here"]["fingerprint"]) == 64

    def test_a_capture_that_cannot_be_called_is_refused(self) -> None:
        with pytest.raises(ConfigurationError, match="capture 5"):
            CheckpointStage("x", 5)  # type: ignore[arg-type]  # that is the mistake
