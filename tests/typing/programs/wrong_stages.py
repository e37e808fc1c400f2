"""Stages that do not fit their pipeline."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel

from stageflow_durable import CompensationContext, Pipeline, RetryPolicy, StageContext, StageKind, Undo
from stageflow_durable.retry import RetryStage
from stageflow_durable.saga import CompensatingActionStage


class Order(BaseModel):
    order_id: str


class Refund(BaseModel):
    amount: int


def of_order(ctx: StageContext[Order]) -> None: ...


def of_refund(ctx: StageContext[Refund]) -> None: ...


async def awaits_refund(ctx: StageContext[Refund]) -> None: ...


def undo_order(ctx: CompensationContext[Order]) -> None: ...


def undo_refund(ctx: CompensationContext[Refund]) -> None: ...


def key_of_refund(ctx: StageContext[Refund]) -> str:
    return str(ctx.input.amount)


def moment_of_refund(ctx: StageContext[Refund]) -> datetime:
    return datetime.fromtimestamp(ctx.input.amount, UTC)


def of_two(ctx: StageContext[Order], more: int) -> None: ...


class OfRefund:
    name = "refund"
    kind = StageKind.WORK

    def execute(self, ctx: StageContext[Refund]) -> None: ...


orders = Pipeline("orders", input_type=Order)
orders.stage("a", of_refund)  # E: arg-type / reportArgumentType
orders.stage("a", awaits_refund)  # E: arg-type / reportArgumentType
orders.stage("a", OfRefund())  # E: arg-type / reportArgumentType
orders.stage("a", RetryStage(OfRefund(), RetryPolicy()))  # E: arg-type / reportArgumentType
orders.stage("a", CompensatingActionStage(of_refund, undo_refund))  # E: arg-type / reportArgumentType
orders.stage("a", CompensatingActionStage(of_order, undo_refund))  # E: arg-type / reportArgumentType
orders.stage("a", lambda ctx: ctx.input.amount)  # E: attr-defined / reportAttributeAccessIssue
orders.stage("a", of_two)  # E: arg-type / reportArgumentType
orders.stage("a", undo_order)  # E: arg-type / reportArgumentType
orders.stage("a", "of_order")  # E: arg-type / reportArgumentType
orders.stage("a", of_order, compensate=undo_refund)  # E: arg-type / reportArgumentType
orders.stage("a", of_order, compensate=Undo(undo_refund))  # E: arg-type / reportArgumentType
orders.stage("a", of_order, compensate=of_order)  # E: arg-type / reportArgumentType
orders.stage("a", of_order, key=key_of_refund)  # E: arg-type / reportArgumentType
orders.stage("a", of_order, on_unknown="ask")  # E: arg-type / reportArgumentType
orders.stage("a", of_order, retries=3)  # E: call-arg / reportCallIssue
orders.sleep("a", until=moment_of_refund)  # E: arg-type / reportArgumentType
Pipeline("untyped").stage("a", of_order)  # E: arg-type / reportArgumentType
Pipeline("untyped").stage("a", lambda ctx: ctx.input.order_id)  # E: attr-defined / reportAttributeAccessIssue
Pipeline("wrong", input_type=Order(order_id="1"))  # E: call-overload / reportCallIssue
Pipeline("wrong", on_failure="stop")  # E: call-overload / reportArgumentType
of_orders: Pipeline[Refund, Any] = Pipeline("orders", input_type=Order)  # E: arg-type / reportAssignmentType
