"""What a program gives wrongly is refused before anything happens, by the name of what is wrong and the way out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from stageflow_durable import RunHandle, Submission
from stageflow_durable.errors import ConfigurationError, InvalidInput, InvalidKey, ResultTimeout
from stageflow_durable.saga import SagaOrchestrator
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    return make_engine(acts.line("a"))


@pytest.mark.parametrize("given", [{"n": 1}, "line", b"line", Submission({}), None, 3])
def test_given_one_input_in_place_of_several_then_it_is_refused_and_nothing_is_started(
    engine: InProcessEngine, given: Any
) -> None:
    named = f"submissions: {type(given).__name__} given; give a list of inputs, or of Submissions"
    with pytest.raises(InvalidInput, match=named):
        engine.enqueue_many("line", given)
    assert engine.runs() == []


def test_given_inputs_beside_submissions_then_each_is_started_as_enqueue_would(engine: InProcessEngine) -> None:
    plain, with_options = engine.enqueue_many("line", [{"n": 1}, Submission({"n": 2}, client_id="web")])
    engine.drain()
    found = [(run.input, run.client_id) for run in (plain.describe(), with_options.describe())]
    assert found == [({"n": 1}, "default"), ({"n": 2}, "web")]


def test_given_an_input_that_is_none_beside_others_then_its_place_has_the_error(engine: InProcessEngine) -> None:
    refused, run = engine.enqueue_many("line", [7, {"n": 1}], on_error="collect")
    assert isinstance(refused, InvalidInput)
    assert "input of line: value: int given" in str(refused)
    assert isinstance(run, RunHandle)
    with pytest.raises(InvalidInput, match="input of line: value: int given"):
        engine.enqueue_many("line", [{"n": 2}, 7])
    assert len(engine.runs()) == 1


def test_given_an_unknown_way_with_errors_then_the_known_ones_are_named_and_nothing_is_started(
    engine: InProcessEngine,
) -> None:
    ignore: Any = "ignore"
    with pytest.raises(InvalidInput, match="on_error: 'ignore' is neither 'raise' nor 'collect'"):
        engine.enqueue_many("line", [Submission({})], on_error=ignore)
    assert engine.runs() == []


@pytest.mark.parametrize("timeout", ["5", True, math.nan, [1]])
def test_given_a_timeout_that_is_none_then_run_and_field_are_named(engine: InProcessEngine, timeout: Any) -> None:
    handle = engine.enqueue("line", {})
    with pytest.raises(InvalidInput, match=f"run {handle.run_id}: timeout: .* is no number of seconds"):
        handle.result(timeout)


def test_given_a_timeout_of_nothing_then_who_asks_is_answered_at_once(engine: InProcessEngine) -> None:
    with pytest.raises(ResultTimeout):
        engine.enqueue("line", {}).result(0)


@pytest.mark.parametrize("what", ["client_id", "pipeline"])
def test_given_a_filter_that_no_run_can_have_then_it_is_named_and_no_sql_is_told(
    engine: InProcessEngine, what: str
) -> None:
    with pytest.raises(InvalidKey, match=rf"{what} holds a control character \(U\+0000\)") as refused:
        engine.runs(**{what: "a\0"})  # type: ignore[arg-type]  # which of the two names is the case
    assert "SELECT" not in str(refused.value)


def test_given_a_step_without_a_name_then_the_saga_and_the_way_to_add_it_are_named() -> None:
    step: Any = 7
    with pytest.raises(ConfigurationError, match=r"SagaOrchestrator 'trip': step 7 has no name; .*\.step\(name"):
        SagaOrchestrator("trip", step)


@pytest.mark.parametrize("wrong", [None, 7, b"R", ["R"]])
def test_given_an_id_that_is_no_text_then_each_call_says_so(engine: InProcessEngine, wrong: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: engine.handle(wrong),
        lambda: engine.run(wrong),
        lambda: engine.history(wrong),
        lambda: engine.cancel(wrong, reason="why", actor="me"),
        lambda: list(engine.audit([wrong])),
    ]
    for call in calls:
        with pytest.raises(InvalidInput, match="run_id: .* given; a run's id is text"):
            call()


@pytest.mark.parametrize("wrong", [None, 7, "", " "])
def test_given_a_reason_or_an_actor_that_says_nothing_then_the_verb_says_so(
    engine: InProcessEngine, wrong: Any
) -> None:
    handle = engine.enqueue("line", {})
    for said in ({"reason": wrong, "actor": "me"}, {"reason": "why", "actor": wrong}):
        with pytest.raises(InvalidInput, match="say it, as text"):
            engine.cancel(handle.run_id, **said)
    engine.drain()


def test_given_one_id_to_audit_instead_of_a_list_then_it_is_not_taken_apart(engine: InProcessEngine) -> None:
    run = engine.enqueue("line", {}).run_id
    engine.drain()
    with pytest.raises(InvalidInput, match="run_ids: a list of ids"):
        engine.audit(run)
    assert [checked.run_id for checked in engine.audit([run])] == [run]
