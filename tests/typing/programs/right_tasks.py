"""Celery tasks as stages. Celery has no types, so that pyright is not as strict here."""

from __future__ import annotations

from celery import Celery
from celery.canvas import Signature
from pydantic import BaseModel

from stageflow_durable import Engine, Pipeline, StageContext, StageKind, task_stage


class Order(BaseModel):
    order_id: str


app = Celery("shop")


def ship_order(ctx: StageContext[Order]) -> Signature:
    return app.signature("ship", args=(ctx.input.order_id,))


orders = (
    Pipeline("orders", input_type=Order)
    .stage("charge", task_stage(lambda ctx: app.signature(ctx.input.order_id)))
    .stage("ship", task_stage(ship_order, kind=StageKind.WORK))
)
engine = Engine("shop", orders, celery_app=app)
