"""What a stage, its undo and whoever asks for the result see is what was accepted, and nothing is validated twice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field, field_validator
from sqlalchemy import text

from stageflow_durable import (
    AttemptEnd,
    CompensationContext,
    Pipeline,
    RunHandle,
    RunStatus,
    StageContext,
    StageOutput,
    Submission,
)
from stageflow_durable.errors import DefinitionError, IdempotencyParamMismatch, UnsavableValue
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import database_of
from tests.unit.shapes import SAVED as SHAPES
from tests.unit.shapes import (
    Alias,
    Cents,
    Dog,
    Excluding,
    Keys,
    Locked,
    Masking,
    Owner,
    Pet,
    Plain,
    Private,
    Strict,
    Zoo,
)
from tests.unit.test_codec_objects import whole

CASES = [case for case in SHAPES if case[0] in (Alias, Cents, Excluding, Keys, Masking, Owner, Plain, Strict, Zoo)]


class Watching:
    """An interceptor, and an observer, that keeps the inputs it sees."""

    name, priority = "watching", 0

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def around(self, ctx: StageContext[Any], call_next: Any) -> StageOutput:
        self.seen.append(ctx.input)
        output: StageOutput = call_next(ctx)
        return output

    def hears(self, end: AttemptEnd) -> None:
        self.seen.append(end.ctx.input)


@pytest.mark.parametrize(("declared", "given"), CASES, ids=lambda case: str(case)[:40])
def test_stages_interceptors_and_undos_see_the_input_that_was_accepted(
    make_engine: MakeEngine, declared: Any, given: Any
) -> None:
    seen: list[Any] = []
    watching = Watching()

    def look(ctx: StageContext[Any] | CompensationContext[Any]) -> None:
        seen.append(ctx.input)

    def end(ctx: StageContext[Any]) -> StageOutput:
        look(ctx)
        return StageOutput.reject("no")

    pipeline = Pipeline("p", input_type=declared).stage("a", look, compensate=look).stage("b", look).stage("c", end)
    engine = make_engine(pipeline, in_place_stages=1, interceptors=[watching], observers=[watching.hears])
    handle = engine.enqueue(pipeline, given)
    engine.drain()

    assert handle.status() is RunStatus.COMPENSATED
    assert len(seen) == 4
    first = seen[0]
    assert isinstance(given, dict) or whole(first) == whole(given)
    assert all(whole(one) == whole(first) for one in [*seen, *watching.seen])


def test_what_one_stage_does_to_the_input_no_other_sees(make_engine: MakeEngine) -> None:
    def spoil(ctx: StageContext[Cents]) -> None:
        ctx.input.cents = 0

    pipeline = Pipeline("p", input_type=Cents).stage("a", spoil).stage("b", lambda ctx: ctx.input.cents)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {"cents": 5})
    engine.drain()
    assert handle.outputs()["b"] == 500


@pytest.mark.parametrize(
    "made",
    [
        lambda: Alias(orderId="1"),
        lambda: Cents(cents=5),
        lambda: Excluding(id="1", dry_run=True),
        lambda: Masking(card="4111"),
        lambda: Owner(pet=Dog(name="r")),
        lambda: Private(a=1),
        lambda: Plain(3),
    ],
)
def test_an_output_is_the_object_that_was_returned_for_a_stage_and_as_the_result(
    make_engine: MakeEngine, made: Callable[[], Any]
) -> None:
    returned = made()
    seen: list[Any] = []
    kind = type(returned)
    pipeline = (
        Pipeline("p", result_type=kind)
        .stage("a", lambda _ctx: returned)
        .stage("b", lambda ctx: seen.append(ctx.output("a", kind)))
        .stage("c", lambda _ctx: returned)
    )
    engine = make_engine(pipeline, in_place_stages=1)
    handle = engine.enqueue(pipeline, {})
    engine.drain()

    assert whole(seen[0]) == whole(returned)
    assert whole(handle.result()) == whole(returned)
    assert whole(handle.result()) == whole(returned)


def test_an_output_that_would_not_come_back_equal_ends_its_stage_as_a_bug_that_names_the_field(
    make_engine: MakeEngine,
) -> None:
    pipeline = Pipeline("p").stage("a", lambda _ctx: {"kept": [Locked(a=1)]}).stage("b", lambda _ctx: None)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {})
    engine.drain()

    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "output.kept[0]._lock: _thread.lock cannot be saved" in str(run.error)


def test_an_input_that_would_not_come_back_equal_is_refused_and_nothing_is_recorded(make_engine: MakeEngine) -> None:
    pipeline = Pipeline("p", input_type=Locked).stage("a", lambda _ctx: None)
    engine = make_engine(pipeline)
    with pytest.raises(UnsavableValue, match=r"input\._lock: _thread\.lock cannot be saved"):
        engine.enqueue(pipeline, {"a": 1})
    assert engine.runs() == []


def test_people_do_not_see_what_a_model_does_not_show(make_engine: MakeEngine) -> None:
    def charge(ctx: StageContext[Masking]) -> Masking:
        ctx.emit("shop.charged", card=ctx.input)
        return ctx.input

    pipeline = Pipeline("p", input_type=Masking).stage("a", charge)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {"card": "4111"})
    engine.drain()

    run = handle.describe()
    assert run.input == run.stage("a").output == {"card": "(not shown)"}
    assert "4111" not in str(handle.history())
    assert handle.outputs() == {"a": {"card": "4111"}}
    assert handle.result(for_people=True) == {"a": {"card": "(not shown)"}}


# --- keys -----------------------------------------------------------------------------------------------------------


def test_one_key_for_runs_that_differ_in_an_excluded_field_only_is_a_mismatch_that_names_it(
    make_engine: MakeEngine,
) -> None:
    pipeline = Pipeline("p", input_type=Excluding).stage("a", lambda _ctx: None)
    engine = make_engine(pipeline)
    first = engine.enqueue(pipeline, {"id": "1", "dry_run": True}, idempotency_key="k")
    again = engine.enqueue(pipeline, {"id": "1", "dry_run": True}, idempotency_key="k")
    assert (again.run_id, again.replayed) == (first.run_id, True)
    with pytest.raises(IdempotencyParamMismatch) as refused:
        engine.enqueue(pipeline, {"id": "1", "dry_run": False}, idempotency_key="k")
    assert refused.value.fields == ("dry_run",)


def accepted_before(engine: InProcessEngine, pipeline: Any, given: Any, told: str) -> RunHandle:
    """Accept a run as the release before did: ``told`` is the input as it saved it."""
    acceptor = engine._acceptor
    new = acceptor._new(pipeline, Submission(given, idempotency_key="k"))
    created = engine.store.create(new._replace(input=told, fingerprint=hashlib.sha256(told.encode()).hexdigest()))
    acceptor.deliver(created)
    return engine.handle(created.run_id)


@pytest.mark.parametrize(("declared", "given", "told"), [
    (Alias, {"orderId": "1"}, '{"order_id":"1"}'),
    (Excluding, {"id": "1", "dry_run": True}, '{"id":"1"}'),
    (Pet, {"name": "r"}, '{"name":"r"}'),
])  # fmt: skip
def test_a_run_of_the_release_before_is_carried_on_and_its_key_replays(
    make_engine: MakeEngine, declared: Any, given: Any, told: str
) -> None:
    seen: list[Any] = []
    pipeline = Pipeline("p", input_type=declared).stage("a", lambda ctx: seen.append(ctx.input))
    engine = make_engine(pipeline)
    engine.enqueue(pipeline, given)
    first = accepted_before(engine, pipeline, given, told)

    assert engine.enqueue(pipeline, given, idempotency_key="k").replayed
    (many,) = engine.enqueue_many(pipeline, [Submission(given, idempotency_key="k")])
    assert getattr(many, "replayed", many) is True
    engine.drain()
    assert first.status() is RunStatus.SUCCEEDED
    assert [type(one) for one in seen] == [declared] * 2

    engine.advance(10)
    assert engine.prune(timedelta(seconds=5)) == 2
    assert engine.enqueue(pipeline, given, idempotency_key="k").replayed


class Account(BaseModel):
    number: int
    memo: str = Field("", exclude=True)


@pytest.mark.parametrize("key", [lambda ctx: ctx.input.number, lambda ctx: str(ctx.input.number)], ids=["int", "str"])
def test_a_business_key_may_be_a_number_and_sees_the_whole_input(
    make_engine: MakeEngine, key: Callable[[Any], Any]
) -> None:
    calls: list[int] = []
    pipeline = Pipeline("p", input_type=Account).stage("a", lambda ctx: calls.append(1), key=key)
    engine = make_engine(pipeline)
    handles = [engine.enqueue(pipeline, {"number": 5, "memo": memo}) for memo in ("x", "x", "y")]
    engine.drain()
    assert calls == [1]
    assert [handle.status() for handle in handles[:2]] == [RunStatus.SUCCEEDED] * 2
    assert "differing: memo" in str(handles[2].describe().error)


@pytest.mark.sql
def test_a_business_key_of_the_release_before_answers(make_engine: MakeEngine) -> None:
    calls: list[int] = []
    pipeline = Pipeline("p", input_type=Account).stage("a", lambda ctx: calls.append(1), key=lambda ctx: "k")
    engine = make_engine(pipeline)
    engine.enqueue(pipeline, {"number": 5, "memo": "x"})
    engine.drain()
    told = '{"number":5}'
    given = {"print": hashlib.sha256(told.encode()).hexdigest(), "params": told}
    with database_of(engine).transaction() as connection:
        connection.execute(text("UPDATE stageflow_idempotency_keys SET fingerprint = :print, params = :params"), given)

    again = engine.enqueue(pipeline, {"number": 5, "memo": "x"})
    engine.drain()
    assert (calls, again.status()) == ([1], RunStatus.SUCCEEDED)


# --- definitions ----------------------------------------------------------------------------------------------------


class Unusable:
    pass


def function(value: Any) -> Any:
    raise RuntimeError(value)


@pytest.mark.parametrize(
    "declared",
    [Unusable, 5, "Missing", function, Annotated[Unusable, {"doc": 1}]],
    ids=["class", "number", "name", "function", "annotated"],
)
@pytest.mark.parametrize("option", ["input_type", "result_type"])
def test_a_type_that_cannot_be_used_is_refused_when_the_pipeline_is_declared_by_name(
    declared: Any, option: str
) -> None:
    pipeline: Any = Pipeline("p", **{option: declared}).stage("a", lambda _ctx: None)
    with (
        pytest.raises(DefinitionError, match=f"pipeline 'p': {option} .* cannot be used"),
        engine_for_tests([pipeline]),
    ):
        pass


class Doubling(BaseModel):
    """Of which one validator runs again where a default is made again."""

    n: int

    @field_validator("n")
    @classmethod
    def doubled(cls, n: int) -> int:
        return n * 2


def test_an_annotated_type_that_cannot_be_hashed_is_validated_like_any_other(make_engine: MakeEngine) -> None:
    declared: Any = Annotated[dict[str, Doubling], {"doc": "x"}]
    pipeline: Any = Pipeline("p", input_type=declared).stage("a", lambda ctx: ctx.input["x"].n)
    engine = make_engine(pipeline)
    handle = engine.enqueue(pipeline, {"x": {"n": 1}})
    engine.drain()
    assert handle.outputs() == {"a": 2}
