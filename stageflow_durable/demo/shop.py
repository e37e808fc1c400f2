"""The shop: a checkout written as an application would write it, and nothing that only a demo needs.

``celery -A stageflow_durable.demo.shop worker`` runs it. ``SHOP_BANK_URL`` and ``SHOP_WAREHOUSE_URL`` say where the
services are, ``SHOP_OUTBOX`` is the mail server's spool directory; the engine reads its own ``STAGEFLOW_…`` settings.
"""

from __future__ import annotations

import os
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from stageflow_durable import (
    CompensationContext,
    Engine,
    Pipeline,
    RetryPolicy,
    StageContext,
    StageKind,
    StageOutput,
    Undo,
)
from stageflow_durable.demo import client
from stageflow_durable.demo.client import Response
from stageflow_durable.demo.orders import Order
from stageflow_durable.errors import PermanentError, TransientError


class Reserved(BaseModel):
    """What the warehouse holds for the order."""

    reservation_id: str


class Charged(BaseModel):
    """The payment, as the bank names it."""

    payment_id: str


class Shipped(BaseModel):
    """The parcel, as the warehouse names it."""

    parcel_id: str


def validate(ctx: StageContext[Order]) -> StageOutput:
    """Business rules, before anything happens in the world."""
    if ctx.input.withdrawn:
        return StageOutput.cancel("withdrawn by the customer")
    if ctx.input.total_cents != ctx.input.amount_cents:
        return StageOutput.reject(f"the items cost {ctx.input.total_cents}, the order says {ctx.input.amount_cents}")
    return StageOutput.ok(pieces=sum(item.quantity for item in ctx.input.items))


def reserve(ctx: StageContext[Order]) -> Reserved | StageOutput:
    """Set the items aside; out of stock means that nothing was."""
    items = [item.model_dump() for item in ctx.input.items]
    response = _warehouse("/reserve", ctx.idempotency_key, order_id=ctx.input.order_id, items=items)
    if response.status == HTTPStatus.CONFLICT:
        return StageOutput.reject(response.error)
    return _failure(response) or Reserved(reservation_id=response.body["reservation_id"])


def release(ctx: CompensationContext[Order]) -> None:
    """Put the items back, if they were ever taken; a late reservation under that key is refused from here on."""
    _undone(_warehouse("/release", ctx.idempotency_key, order_id=ctx.input.order_id, of=ctx.action_key))


def charge(ctx: StageContext[Order]) -> Charged | StageOutput:
    """Take the money; a declined card means that none was taken."""
    order = ctx.input
    response = _bank(
        "/charge",
        ctx.idempotency_key,
        order_id=order.order_id,
        amount_cents=order.amount_cents,
        currency=order.currency,
        card=order.card,
    )
    if response.status == HTTPStatus.PAYMENT_REQUIRED:
        return StageOutput.reject(response.error)
    return _failure(response) or Charged(payment_id=response.body["payment_id"])


def refund(ctx: CompensationContext[Order]) -> None:
    """Give the money back, if it was ever taken; a late charge under that key is refused from here on."""
    _undone(_bank("/refund", ctx.idempotency_key, order_id=ctx.input.order_id, of=ctx.action_key))


def ship(ctx: StageContext[Order]) -> Shipped | StageOutput:
    """Hand the parcel over: from here on the order only goes forward."""
    reservation_id = ctx.output("reserve", Reserved).reservation_id
    response = _warehouse("/ship", ctx.idempotency_key, order_id=ctx.input.order_id, reservation_id=reservation_id)
    return _failure(response) or Shipped(parcel_id=response.body["parcel_id"])


def mail(ctx: StageContext[Order]) -> StageOutput:
    """Spool one letter, named by the key: writing it twice is writing it once."""
    parcel = ctx.output("ship", Shipped).parcel_id
    letter = f"To: {ctx.input.customer}\nX-Order: {ctx.input.order_id}\n\nParcel {parcel} is on its way.\n"
    spooled = Path(os.environ["SHOP_OUTBOX"], f"{quote(ctx.idempotency_key, safe='')}.eml")
    draft = spooled.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(letter, encoding="utf-8")
    draft.replace(spooled)
    return StageOutput.ok(letter=spooled.name)


def _warehouse(path: str, key: str, **fields: object) -> Response:
    return client.post(os.environ["SHOP_WAREHOUSE_URL"], path, key=key, **fields)


def _bank(path: str, key: str, **fields: object) -> Response:
    return client.post(os.environ["SHOP_BANK_URL"], path, key=key, **fields)


def _failure(response: Response) -> StageOutput | None:
    if response.status == HTTPStatus.OK:
        return None
    if _passes(response):
        return StageOutput.retry(response.error, after=response.retry_after)
    return StageOutput.fail(response.error)


def _passes(response: Response) -> bool:
    return response.status == HTTPStatus.TOO_MANY_REQUESTS or response.status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _undone(response: Response) -> None:
    # An undo has no output to return a retry by: it raises, and the undo's own policy decides.
    if _passes(response):
        raise TransientError(response.error)
    if response.status != HTTPStatus.OK:
        raise PermanentError(response.error)


patient = RetryPolicy(max_attempts=6, base_delay=0.1, max_delay=1.0, jitter="decorrelated")
stubborn = RetryPolicy(max_attempts=10, base_delay=0.1, max_delay=2.0)

checkout: Pipeline[Order, Any] = (
    Pipeline("checkout", version="1", input_type=Order)
    .stage("validate", validate, kind=StageKind.GUARD)
    .stage("reserve", reserve, compensate=Undo(release, retry=stubborn), retry=patient)
    .stage("charge", charge, compensate=Undo(refund, retry=stubborn), retry=patient)
    .stage("ship", ship, pivot=True, retry=stubborn)
    .stage("mail", mail)
)
engine = Engine("shop", pipelines=[checkout])
celery_app = engine.celery_app
