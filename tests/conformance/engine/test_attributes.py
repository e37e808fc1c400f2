"""Attributes: what a run is found by."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Submission
from stageflow_durable.errors import IdempotencyParamMismatch, InvalidInput, StageflowError
from stageflow_durable.model.status import RunStatus
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import rows_of


def keys(engine: InProcessEngine, **wanted: Any) -> list[str | None]:
    return [run.key for run in engine.runs(**wanted)]


@pytest.fixture
def engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    return make_engine(acts.line("a b"))


def enqueue(engine: InProcessEngine, key: str, **attributes: Any) -> str:
    engine.advance(1)
    return engine.enqueue("line", {"n": 1}, idempotency_key=key, attributes=attributes).run_id


def test_a_run_is_found_by_all_of_its_attributes(engine: InProcessEngine) -> None:
    enqueue(engine, "1", order="A-1", region="eu")
    enqueue(engine, "2", order="A-2", region="eu")
    enqueue(engine, "3", region="us")
    enqueue(engine, "4")
    assert keys(engine, attributes={"region": "eu"}) == ["2", "1"]
    assert keys(engine, attributes={"region": "eu", "order": "A-1"}) == ["1"]
    assert keys(engine, attributes={"region": "us", "order": "A-1"}) == []
    assert keys(engine, attributes={"order": "a-1"}) == []
    assert keys(engine, attributes={"region": "eu"}, limit=1) == ["2"]
    assert keys(engine, attributes={}) == ["4", "3", "2", "1"]
    assert [one.run_id for one in engine.matching(["pending"], attributes={"order": "A-2"})] == [
        engine.runs(attributes={"order": "A-2"})[0].run_id
    ]


def test_they_are_shown_and_stay_for_as_long_as_the_run(engine: InProcessEngine) -> None:
    run_id = enqueue(engine, "1", order="A-1", count=3, express=True)
    engine.drain()
    assert engine.handle(run_id).describe().attributes == {"count": "3", "express": "true", "order": "A-1"}
    engine.advance(2 * 86_400)
    assert engine.prune(timedelta(days=1)) == 1
    assert keys(engine, attributes={"order": "A-1"}) == []
    assert rows_of(engine, "attributes") == []


def test_the_same_key_with_others_finds_the_run_with_its_first(engine: InProcessEngine) -> None:
    first = enqueue(engine, "1", order="A-1")
    again = engine.enqueue("line", {"n": 1}, idempotency_key="1", attributes={"order": "A-2", "region": "eu"})
    assert (again.run_id, again.replayed) == (first, True)
    assert again.describe().attributes == {"order": "A-1"}
    with pytest.raises(IdempotencyParamMismatch):
        engine.enqueue("line", {"n": 2}, idempotency_key="1", attributes={"order": "A-1"})


def test_many_at_once_have_each_their_own(engine: InProcessEngine) -> None:
    given = [Submission({"n": n}, attributes={"n": n, "all": "yes"} if n else None) for n in range(5)]
    handles = engine.enqueue_many("line", given)
    assert not [one for one in handles if isinstance(one, StageflowError)]
    assert len(keys(engine, attributes={"all": "yes"})) == 4
    [third] = engine.runs(attributes={"n": 3})
    assert engine.handle(third.run_id).describe().input == {"n": 3}


def test_many_at_once_that_are_there_already_keep_their_own(engine: InProcessEngine) -> None:
    enqueue(engine, "0", order="first")
    given = [Submission({"n": 1}, idempotency_key=str(n), attributes={"order": "then"}) for n in range(3)]
    engine.enqueue_many("line", given)
    assert keys(engine, attributes={"order": "first"}) == ["0"]
    assert sorted(map(str, keys(engine, attributes={"order": "then"}))) == ["1", "2"]


def test_one_of_many_that_is_refused_names_its_attribute(engine: InProcessEngine) -> None:
    given = [Submission({"n": 1}), Submission({"n": 2}, attributes={"n": 1.5})]
    with pytest.raises(InvalidInput, match=r"attributes\.n"):
        engine.enqueue_many("line", given)
    assert engine.runs() == []
    _first, second = engine.enqueue_many("line", given, on_error="collect")
    assert isinstance(second, InvalidInput)


def test_a_fork_is_found_as_its_original_is(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    engine = make_engine(acts.line("a b", a={"compensate": None}, b={"compensate": None}))
    run_id = enqueue(engine, "1", order="A-1")
    engine.drain()
    forked = engine.fork(run_id, "b")
    assert {run.run_id for run in engine.runs(attributes={"order": "A-1"})} == {run_id, forked.run_id}


def test_what_needs_a_person_is_narrowed_down_like_the_rest(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", *[FAILS("no")] * 2)
    engine = make_engine(acts.line("a b", a={"compensate": None}, b={"compensate": None}))
    enqueue(engine, "1", order="A-1")
    enqueue(engine, "2", order="A-2")
    engine.drain()
    enqueue(engine, "3", order="A-1")
    enqueue(engine, "4", order="A-2")  # nobody takes it: it is stuck
    engine.advance(3600)
    assert sorted(map(str, keys(engine, attention=True))) == ["1", "2", "3", "4"]
    assert sorted(map(str, keys(engine, attention=True, attributes={"order": "A-2"}))) == ["2", "4"]
    assert sorted(map(str, keys(engine, attention=True, pipeline="other"))) == []
    assert keys(engine, attention=True, status=RunStatus.FAILED, attributes={"order": "A-1"}) == ["1"]
    assert keys(engine, attention=True, since=timedelta(seconds=1)) == []


def test_a_history_with_them_is_whole(engine: InProcessEngine) -> None:
    run_id = enqueue(engine, "1", order="A-1")
    engine.drain()
    [checked] = engine.audit([run_id])
    assert checked.problems == ()


@pytest.mark.parametrize("wrong", [{"a": 1.5}, {"a b": "c"}, "a=b"])
def test_what_is_none_is_refused_wherever_it_is_given(engine: InProcessEngine, wrong: Any) -> None:
    for ask in (engine.runs, lambda **given: engine.matching(["pending"], **given)):
        with pytest.raises(InvalidInput, match="attributes"):
            ask(attributes=wrong)
    with pytest.raises(InvalidInput, match="attributes"):
        engine.enqueue("line", {"n": 1}, attributes=wrong)
