"""Which unfinished runs a new definition would break, before it is deployed."""

from __future__ import annotations

from typing import Any

from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine


def broken(engine: InProcessEngine) -> dict[str, str]:
    return {run.run_id: why for run, why in engine.check()}


def redefined(engine: InProcessEngine, *pipelines: Any) -> None:
    engine.pipelines = {pipeline.name: pipeline for pipeline in pipelines}


def test_runs_that_fit_are_not_listed(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), in_place_stages=1)
    engine.enqueue("line", {})
    engine.step()
    assert broken(engine) == {}
    redefined(engine, acts.line("a b c"))
    assert broken(engine) == {}


def test_a_run_whose_next_stage_is_gone_is_listed_with_why(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"), in_place_stages=1)
    under_way = engine.enqueue("line", {})
    engine.step()
    redefined(engine, acts.line("a c"))
    assert broken(engine) == {under_way.run_id: "stage 'b' is gone"}
    assert "b" not in acts.log, "it only looks"


def test_a_finished_run_is_nobodys_concern(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    engine.enqueue("line", {})
    engine.drain()
    redefined(engine, acts.line("x"))
    assert broken(engine) == {}


def test_a_run_whose_undo_is_gone_is_listed(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    acts.play("undo a", ConnectionError("busy"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.work()
    redefined(engine, acts.line("a b", a={"compensate": None}))
    assert broken(engine) == {handle.run_id: "the undo of a is owed, and gone"}
