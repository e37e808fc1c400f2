"""Celery tasks that do not fit their pipeline."""

from __future__ import annotations

from celery import Celery
from celery.canvas import Signature
from pydantic import BaseModel

from stageflow_durable import Pipeline, StageContext, task_stage


class Order(BaseModel):
    order_id: str


class Refund(BaseModel):
    amount: int


app = Celery("shop")


def refund(ctx: StageContext[Refund]) -> Signature:
    return app.signature("refund", args=(ctx.input.amount,))


orders = Pipeline("orders", input_type=Order)
orders.stage("refund", task_stage(refund))  # E: arg-type / reportArgumentType
orders.stage("refund", task_stage(lambda ctx: ctx.input.amount))  # E: attr-defined / reportAttributeAccessIssue
orders.stage("refund", task_stage("refund"))  # E: arg-type / reportArgumentType
