"""Runs in flight while the shape of what stages save changes: older values are migrated, or refused by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable import RunStatus, SchemaMigration
from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine

TO_TWO = SchemaMigration(
    input=lambda old: {"order": old["n"]},
    outputs={"a": lambda old: {"id": old}},
)
TO_THREE = SchemaMigration(outputs={"a": lambda old: {**old, "currency": "EUR"}})


def under_way(make_engine: MakeEngine, acts: Acts, names: str = "a b c") -> tuple[InProcessEngine, Any]:
    """A run that has saved stage a under schema 1, and stands before b."""
    engine = make_engine(acts.line(names), in_place_stages=1)
    handle = engine.enqueue("line", {"n": 7})
    engine.step()
    return engine, handle


def deployed(engine: InProcessEngine, pipeline: Any) -> None:
    engine.advance(1)  # the newest definition is the one registered last
    engine.deploy(pipeline)


def test_a_stage_sees_what_was_saved_before_as_the_newest_schema_has_it(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    deployed(engine, replace(acts.line("a b c"), schema=3, migrations={1: TO_TWO, 2: TO_THREE}))
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    seen = acts.contexts[1]
    assert (seen.input, seen.outputs) == ({"order": 7}, {"a": {"id": "a", "currency": "EUR"}})


def test_what_is_saved_since_then_is_left_as_it_is(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    both = {name: (lambda old: f"{old} of 1") for name in "ab"}
    acts.play("b", "b of 2")
    deployed(engine, replace(acts.line("a b c"), schema=2, migrations={1: SchemaMigration(outputs=both)}))
    engine.drain()
    assert acts.contexts[2].outputs == {"a": "a of 1", "b": "b of 2"}
    assert engine.handle(handle.run_id).outputs() == {"a": "a of 1", "b": "b of 2", "c": "c"}


def test_an_undo_sees_it_too(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    deployed(engine, replace(acts.line("a b c"), schema=2, migrations={1: TO_TWO}))
    engine.cancel(handle.run_id, reason="because", actor="ops")
    engine.drain()
    undo = acts.contexts[-1]
    assert (undo.stage, undo.output, undo.input) == ("a", {"id": "a"}, {"order": 7})


def test_a_fork_keeps_the_schema_of_what_it_copies(make_engine: MakeEngine, acts: Acts) -> None:
    engine, first = under_way(make_engine, acts)
    engine.drain()
    deployed(engine, replace(acts.line("a b c"), schema=2, migrations={1: TO_TWO}))
    engine.fork(first.run_id, "b")
    engine.drain()
    assert (acts.contexts[-2].input, acts.contexts[-2].outputs) == ({"order": 7}, {"a": {"id": "a"}})


def test_a_schema_that_is_not_read_any_more_parks_the_run(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    deployed(engine, replace(acts.line("a b c"), schema=3, migrations={2: TO_THREE}))
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.DEFINITION)
    assert "its outputs have schema 1, this definition reads 2 to 3" in str(run.error)
    deployed(engine, replace(acts.line("a b c"), schema=3, migrations={1: TO_TWO, 2: TO_THREE}))
    engine.resume(handle.run_id, reason="mended", actor="ops")
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_migration_that_fails_parks_the_run_and_undoes_nothing(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    broken = SchemaMigration(outputs={"a": lambda old: old["no such field"]})
    deployed(engine, replace(acts.line("a b c"), schema=2, migrations={1: broken}))
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason, acts.log) == (RunStatus.PARKED, ParkReason.BUG, ["a"])
    assert "the migration of the output of a from schema 1 failed: TypeError" in str(run.error)


def test_it_is_checked_before_the_deploy(make_engine: MakeEngine, acts: Acts) -> None:
    engine, handle = under_way(make_engine, acts)
    engine.pipelines = {"line": replace(acts.line("a b c"), schema=2)}
    ((listed, why),) = engine.check()
    assert (listed.run_id, why) == (handle.run_id, "its outputs have schema 1, this definition reads 2 to 2")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"schema": 0}, "schema 0 has to be a number from 1"),
        ({"schema": 3, "migrations": {1: TO_THREE}}, "migrations from schema 2 are missing"),
        ({"schema": 2, "migrations": {2: TO_THREE, 1: TO_THREE}}, r"migrations\[2\]: schema is 2"),
        ({"schema": 2, "migrations": {1: len}}, r"migrations\[1\] .* is not a SchemaMigration"),
        ({"schema": 2, "migrations": {1: SchemaMigration(outputs={"z": str})}}, r"outputs\['z'\]: no such stage"),
        ({"schema": 2, "migrations": {1: SchemaMigration(outputs={"a": 5})}}, "5 is not a function of one value"),  # type: ignore[dict-item]  # that is the mistake
    ],
    ids=["zero", "gap", "too new", "no migration", "no stage", "no function"],
)
def test_mistakes_are_found_at_the_definition(acts: Acts, given: dict[str, Any], named: str) -> None:
    with pytest.raises(DefinitionError, match=named):
        replace(acts.line("a b"), **given).plan  # noqa: B018  # reading it finds the mistakes
