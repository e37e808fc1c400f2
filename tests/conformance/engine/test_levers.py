"""What makes it fast can be switched off, one by one and altogether, and nothing that is promised changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from stageflow_durable import RunHandle, RunStatus, StageOutput, Submission
from stageflow_durable.errors import IdempotencyParamMismatch
from stageflow_durable.model.status import AttemptState
from stageflow_durable.settings.values import DEFAULTS
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

OFF: dict[str, dict[str, Any]] = {"in_place_stages": {"in_place_stages": 1}} | {
    name: {name: False} for name, default in DEFAULTS.items() if default is True
}
"""Each lever, switched off; what concerns Celery alone is played with workers in ``tests/chaos/test_levers.py``."""
LEVERS = {"all on": {}, "all off": {name: value for off in OFF.values() for name, value in off.items()}} | {
    f"no {name}": off for name, off in OFF.items()
}
levers = pytest.mark.parametrize("settings", LEVERS.values(), ids=LEVERS)


def test_the_levers_are_those_that_the_documentation_names() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reference" / "settings.md").read_text()
    assert [name for name in OFF if f"| `{name}` |" not in text] == []


@levers
def test_given_many_runs_at_once_then_each_is_what_it_would_be_alone_or_is_refused_in_its_place(
    make_engine: MakeEngine, acts: Acts, settings: dict[str, Any]
) -> None:
    engine = make_engine(acts.line("a b"), **settings)
    given = [("k", 1), (None, 2), ("k", 1), ("k", 3), (None, 4)]
    answers = engine.enqueue_many(
        "line", [Submission({"n": n}, idempotency_key=key) for key, n in given], on_error="collect"
    )
    engine.drain()
    first, free, again, refused, last = answers
    assert isinstance(refused, IdempotencyParamMismatch)
    runs = [run for run in (first, free, again, last) if isinstance(run, RunHandle)]
    assert [run.replayed for run in runs] == [False, False, True, False]
    assert [run.status() for run in runs] == [RunStatus.SUCCEEDED] * 4
    assert len({run.run_id for run in runs}) == 3
    assert sorted(acts.log) == ["a"] * 3 + ["b"] * 3


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


@pytest.mark.parametrize("ending", [None, FAILS, DIES, StageOutput.skip("no need")], ids=repr)
def test_whichever_way_a_run_was_written_its_history_and_its_attempts_read_the_same(
    make_engine: MakeEngine, acts: Acts, ending: object
) -> None:
    told = []
    for optimistic in (True, False):
        engine = make_engine(acts.line("a b c"), optimistic=optimistic)
        if ending is not None:
            acts.play("b", ending)
        handle = engine.enqueue("line", {})
        engine.drain()
        owners: list[str] = []
        told.append(
            (
                [(event.type, _without_owner(event.data, owners)) for event in handle.history()],
                [
                    (stage.name, attempt.n, attempt.state, attempt.error, attempt.ended_at is None)
                    for stage in handle.describe().stages
                    for attempt in stage.attempts
                ],
            )
        )
    assert told[0] == told[1]


def _without_owner(data: Any, owners: list[str]) -> Any:
    """Data of an event, with owners as the numbers in which they came."""
    if isinstance(data, Mapping):
        return {name: _without_owner(_numbered(name, value, owners), owners) for name, value in data.items()}
    return data


def _numbered(name: str, value: Any, owners: list[str]) -> Any:
    if name != "owner" or value is None:
        return value
    if value not in owners:
        owners.append(value)
    return owners.index(value)


def test_while_a_stage_runs_its_attempt_is_shown_as_running_and_afterwards_as_it_ended(
    make_engine: MakeEngine, acts: Acts
) -> None:
    seen = []

    def look(_ctx: Any) -> str:
        seen.append(handle.describe().stage("b"))
        return "looked"

    engine = make_engine(acts.line("a b"))
    acts.play("b", look)
    handle = engine.enqueue("line", {})
    engine.drain()
    (running,), (ended,) = seen[0].attempts, handle.describe().stage("b").attempts
    assert (running.n, running.state, running.ended_at) == (1, AttemptState.RUNNING, None)
    assert (ended.n, ended.state, ended.began_at) == (1, AttemptState.OK, running.began_at)
    assert ended.ended_at is not None
    assert (running.owner, running.owner_pid) == (ended.owner, ended.owner_pid)


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
