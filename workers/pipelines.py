"""A sample pipeline that needs no service: it shows a retry, an undo and a point of no return."""

from __future__ import annotations

from pydantic import BaseModel

from stageflow_durable import CompensationContext, Pipeline, RetryPolicy, StageContext, StageKind, StageOutput


class Order(BaseModel):
    """What a customer asks for; ``amount_cents`` of 0 is declined, to show an undo."""

    order_id: str
    amount_cents: int


def validate(ctx: StageContext[Order]) -> StageOutput:
    """Refuse what cannot be charged, before anything happens."""
    return StageOutput.reject("a negative amount") if ctx.input.amount_cents < 0 else StageOutput.ok()


def reserve(ctx: StageContext[Order]) -> dict[str, str]:
    """Reserve the goods; a busy warehouse is asked again."""
    ctx.emit("warehouse.asked", order=ctx.input.order_id)
    return {"reservation": f"reservation-{ctx.idempotency_key}"}


def release(ctx: CompensationContext[Order]) -> None:
    """Release what was reserved under ``ctx.action_key``, if it was."""


def charge(ctx: StageContext[Order]) -> StageOutput:
    """Charge the customer."""
    if ctx.input.amount_cents == 0:
        return StageOutput.reject("nothing to charge")
    return StageOutput.ok(payment=f"payment-{ctx.idempotency_key}")


def refund(ctx: CompensationContext[Order]) -> None:
    """Refund what was charged under ``ctx.action_key``, if it was."""


def ship(ctx: StageContext[Order]) -> dict[str, str]:
    """Hand the parcel over: from here on there is no way back."""
    return {"parcel": f"parcel-{ctx.idempotency_key}"}


checkout: Pipeline[Order, dict[str, str]] = (
    Pipeline("checkout", version="1", input_type=Order, result_type=dict, retry=RetryPolicy(max_attempts=5))
    .stage("validate", validate, kind=StageKind.GUARD)
    .stage("reserve", reserve, compensate=release)
    .stage("charge", charge, compensate=refund)
    .stage("ship", ship, pivot=True)
)
