"""Writes through ``ctx.session`` happen exactly when the stage's outcome is committed."""

from __future__ import annotations

from typing import Any

import pytest

from stageflow_durable import PermanentError, Pipeline, RunStatus, StageOutput, TransientError
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.status import ParkReason
from tests.conformance.engine.acts import DIES, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.own_table import OwnTable
from tests.conformance.engine.test_interceptors import Wrap
from tests.items import item_of, items_for, over

pytestmark = pytest.mark.sql

LEDGER = OwnTable("shop_ledger", unique=True)
ledger, booked, own_table = LEDGER.table, LEDGER.written, LEDGER.fixture()


def book(ctx: Any, what: str | None = None) -> str:
    LEDGER.write(ctx, what or ctx.stage)
    return "booked"


def test_they_commit_with_the_checkpoint(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    acts.play("a", book)
    acts.play("b", book)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert booked(engine) == ["a", "b"]


def test_of_an_item_they_commit_with_its_own_outcome(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))

    def books_or_fails(ctx: Any) -> str:
        book(ctx, f"item {item_of(ctx)}")
        if item_of(ctx) == 2:
            raise PermanentError("no")
        return "booked"

    acts.play("a", *[books_or_fails] * 3)
    with items_for({("line", "a"): over("x", "y", "z", collects=True)}):
        handle = engine.enqueue("line", {})
        engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert booked(engine) == ["item 1", "item 3"]


def test_they_are_not_there_before(make_engine: MakeEngine, acts: Acts) -> None:
    engine, seen = make_engine(acts.line("a")), []

    def looks(ctx: Any) -> None:
        book(ctx)
        seen.append(booked(engine))

    acts.play("a", looks)
    engine.enqueue("line", {})
    engine.drain()
    assert (seen, booked(engine)) == ([[]], ["a"])


@pytest.mark.parametrize(
    "end",
    [TransientError("x"), StageOutput.retry("x"), {"not": object()}, StageOutput.fail("x")],
    ids=["raised", "retry", "unsavable", "fail"],
)
def test_they_are_rolled_back_with_an_attempt_that_did_not_succeed(
    make_engine: MakeEngine, acts: Acts, end: Any
) -> None:
    engine = make_engine(acts.line("a"))

    def books_and_ends(ctx: Any) -> Any:
        book(ctx)
        if isinstance(end, Exception):
            raise end
        return end

    acts.play("a", books_and_ends, book)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert booked(engine) == (["a"] if handle.status() is RunStatus.SUCCEEDED else [])


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_process_that_dies_at_the_commit_has_booked_exactly_once(
    make_engine: MakeEngine, acts: Acts, when: Any
) -> None:
    engine = make_engine(acts.line("a b"))
    acts.play("a", book, book)
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "succeed")
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert booked(engine) == ["a"]


def test_a_process_that_dies_in_the_body_has_booked_nothing(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))

    def dies(ctx: Any) -> None:
        book(ctx, "never")
        raise DIES

    acts.play("a", dies, book)
    engine.enqueue("line", {})
    engine.drain()
    assert booked(engine) == ["a"]


def test_a_zombies_writes_are_rolled_back(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    zombie = engine.crew[0]

    def paused(ctx: Any) -> str:
        engine.clock.advance(60)
        engine.sweep()
        engine.step(engine.hired())  # another worker does it meanwhile
        return book(ctx, "late")

    acts.play("a", paused, book)
    handle = engine.enqueue("line", {})
    engine.step(zombie)
    engine.drain()
    assert booked(engine) == ["a"]
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_commit_whose_answer_was_lost_has_booked_exactly_once(make_engine: MakeEngine, acts: Acts, when: Any) -> None:
    engine = make_engine(acts.line("a b", b={"on_unknown": "park"}))
    acts.play("a", book, book)
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "succeed", error=StoreUnavailable("the connection is gone"))
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert booked(engine) == ["a"]


def test_commit_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a", a={"compensate": None}))
    acts.play("a", lambda ctx: ctx.session.commit())
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert str(run.error).startswith("SessionMisused: ctx.session.commit(): leave it out")
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)


def test_in_an_async_stage_it_is_refused_by_name(make_engine: MakeEngine) -> None:
    async def books(ctx: Any) -> None:
        book(ctx)

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", books))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert "async def" in str(handle.describe().error)
    assert handle.status() is not RunStatus.SUCCEEDED


def test_an_error_at_the_flush_is_the_stages_own(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("b a"))

    class Row:
        """Mapped below."""

        def __init__(self, number: int) -> None:
            self.id, self.what = number, "twice"

    from sqlalchemy.orm import registry

    registry().map_imperatively(Row, ledger)
    acts.play("a", lambda ctx: ctx.session.add_all([Row(1), Row(2)]))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert acts.log == ["b", "a", "undo a unknown", "undo b ok"]
    assert run.status is RunStatus.COMPENSATED
    assert "IntegrityError" in str(run.error)
    assert booked(engine) == []


def answers_whatever_it_raises(ctx: Any, call_next: Any) -> StageOutput:
    try:
        output: StageOutput = call_next(ctx)
    except ValueError:
        return StageOutput.ok("instead")
    return output


def test_they_are_rolled_back_when_an_interceptor_answers_for_a_body_that_raised(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def books_and_raises(ctx: Any) -> None:
        book(ctx)
        raise ValueError("half of it")

    acts.play("a", books_and_raises)
    acts.play("b", book)
    engine = make_engine(acts.line("a b"), interceptors=[Wrap(answers_whatever_it_raises)])
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs() == {"a": "instead", "b": "booked"}
    assert booked(engine) == ["b"]


def test_a_body_that_ended_the_transaction_is_found_out_whatever_an_interceptor_answers(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def ends_it_and_raises(ctx: Any) -> None:
        book(ctx)
        ctx.session.connection().connection.dbapi_connection.rollback()
        raise ValueError("half of it")

    acts.play("a", ends_it_and_raises)
    engine = make_engine(acts.line("a"), interceptors=[Wrap(answers_whatever_it_raises)])
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert booked(engine) == []
