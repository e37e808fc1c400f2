# pyright: strict
"""Stages that fit their pipeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from stageflow_durable import (
    CompensationContext,
    Engine,
    Pipeline,
    RetryPolicy,
    Stage,
    StageContext,
    StageKind,
    StageOutput,
    Undo,
)
from stageflow_durable.retry import RetryStage
from stageflow_durable.saga import CheckpointStage, CompensatingActionStage


class Request(BaseModel):
    client: str


class Order(Request):
    order_id: str


class Receipt(BaseModel):
    payment_id: str


def validate(ctx: StageContext[Order]) -> StageOutput:
    assert_type(ctx.input, Order)
    return StageOutput.skip("known") if ctx.input.order_id else StageOutput.ok(valid=True)


async def charge(ctx: StageContext[Order]) -> Receipt | StageOutput:
    assert_type(ctx.output("validate", Receipt), Receipt)
    return Receipt(payment_id=ctx.idempotency_key)


def render(ctx: StageContext[Order]) -> StageOutput:
    assert_type(ctx.callback_url(), str)
    return StageOutput.wait(timeout=timedelta(hours=1))


def refund(ctx: CompensationContext[Order]) -> None:
    assert_type(ctx.input, Order)


def of_any_request(ctx: StageContext[Request]) -> dict[str, Any]:
    """One for several pipelines: what it needs of the input is in a class above."""
    return {"client": ctx.input.client}


def forget_request(ctx: CompensationContext[Request]) -> None: ...


def of_anything(ctx: StageContext) -> None: ...


def of_any_object(ctx: StageContext[dict[str, Any]]) -> None:
    assert_type(ctx.input, dict[str, Any])


class Ship:
    name = "ship"
    kind = StageKind.WORK

    def execute(self, ctx: StageContext[Order]) -> dict[str, str]:
        return {"of": ctx.input.order_id}


class Mail:
    """The least that may stand for a function."""

    def execute(self, ctx: StageContext[Order]) -> None: ...


checkout = (
    Pipeline("checkout", version="2", input_type=Order, result_type=Receipt, on_failure="park")
    .stage("validate", validate, kind=StageKind.GUARD)
    .stage("client", of_any_request, compensate=forget_request)
    .stage("charge", charge, compensate=Undo(refund, retry=RetryPolicy(max_attempts=10)), timeout=timedelta(seconds=30))
    .stage("render", render, callback=Receipt)
    .stage("once", of_anything, key=lambda ctx: ctx.input.order_id)
    .sleep("a day", timedelta(days=1))
    .sleep("until", until=lambda ctx: datetime.fromtimestamp(len(ctx.input.order_id), UTC))
    .stage("ship", Ship(), pivot=True)
    .stage("shipped again", RetryStage(Ship(), RetryPolicy()))
    .stage("taken back", CompensatingActionStage(charge, refund))
    .stage("noted", CheckpointStage("noted", lambda ctx: ctx.input))
    .stage("mail", Mail())
    .stage("lambda", lambda ctx: ctx.input.order_id)
)
assert_type(checkout, Pipeline[Order, Receipt])
assert_type(Pipeline("outputs", input_type=Order), Pipeline[Order, dict[str, Any]])
assert_type(Pipeline("objects", result_type=Receipt), Pipeline[dict[str, Any], Receipt])

untyped = (
    Pipeline("untyped")
    .stage("object", of_any_object)
    .stage("any", of_anything)
    .stage("one", lambda ctx: ctx.input["n"])
)
assert_type(untyped, Pipeline[dict[str, Any], dict[str, Any]])

several = Pipeline("several", input_type=Order | Receipt).stage("any", of_anything).stage("one", validate)
numbers = Pipeline("numbers", input_type=list[int])
assert_type(numbers, Pipeline[list[int], dict[str, Any]])

stages: list[Stage] = [Ship()]
engine = Engine("shop", [checkout, untyped, several, numbers])


def register(pipeline: Pipeline) -> Engine:
    """A pipeline of any types."""
    return Engine("one", pipeline)


register(checkout)
register(untyped)
