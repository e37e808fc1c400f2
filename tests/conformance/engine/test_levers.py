"""What makes it fast can be switched off, one by one and altogether, and nothing that is promised changes."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import RunStatus, StageOutput
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

OFF: dict[str, dict[str, Any]] = {
    "in place": {"in_place_stages": 1},
    "the short way": {"short_way": False},
    "hints": {"hints": False},
    "prepared statements": {"prepared_statements": False},
}
LEVERS = {"all on": {}, "all off": {name: value for off in OFF.values() for name, value in off.items()}} | {
    f"no {name}": off for name, off in OFF.items()
}

levers = pytest.mark.parametrize("settings", LEVERS.values(), ids=LEVERS)


@levers
def test_given_a_line_that_is_retried_and_crashes_then_each_stage_is_saved_once(
    make_engine: MakeEngine, acts: Acts, settings: dict[str, Any]
) -> None:
    engine = make_engine(acts.line("a b c d"), **settings)
    acts.play("b", StageOutput.retry("busy"), DIES)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log == ["a", "b", "b", "b", "c", "d"]
    assert handle.status() is RunStatus.SUCCEEDED
    assert handle.outputs() == {name: name for name in "abcd"}
    assert [event.seq for event in handle.history()] == list(range(1, len(handle.history()) + 1))


@levers
def test_given_a_graph_that_fails_then_it_is_undone_in_reverse(
    make_engine: MakeEngine, acts: Acts, settings: dict[str, Any]
) -> None:
    engine = make_engine(acts.graph(**DIAMOND), **settings)
    acts.play("z", FAILS)
    handle = engine.enqueue("graph", {})
    engine.drain()
    undone = [line for line in acts.log if line.startswith("undo")]
    assert undone[:2] == ["undo z unknown", "undo join ok"]
    assert sorted(undone[2:4]) == ["undo left ok", "undo right ok"]
    assert undone[4:] == ["undo a ok"]
    assert handle.status() is RunStatus.COMPENSATED
