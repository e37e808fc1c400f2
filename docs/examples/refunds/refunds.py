"""Refunds that a person approves, by a link in a mail.

In this directory, one terminal each (``pip install uvicorn`` brings the server)::

    stageflow --app refunds:engine up
    uvicorn refunds:server --no-access-log      # that log would hold the links, and who has a link may decide

and in a third one, where Ann's mail has her link::

    stageflow --app refunds:engine enqueue refunds --input '{"order_id": "A-1", "why": "it is broken", "faulty": true}'
    python outside.py
"""

from __future__ import annotations

import os
from datetime import timedelta

import outside
from pydantic import BaseModel

from stageflow_durable import CompensationContext, Engine, Pipeline, StageContext, StageOutput
from stageflow_durable.web import callbacks

APPROVERS = {"ann": "ann@shop.example", "max": "max@shop.example"}
DECIDE_WITHIN = timedelta(seconds=float(os.environ.get("REFUNDS_DECIDE_WITHIN", "259200")))  # three days


class Claim(BaseModel):
    """What a customer asks for."""

    order_id: str
    why: str
    faulty: bool = False


class Owed(BaseModel):
    """What the customer is to get."""

    customer: str
    amount_cents: int


def check(ctx: StageContext[Claim]) -> Owed | StageOutput:
    """Look the order up. Whoever just changed their mind paid for the postage."""
    order = outside.order(ctx.input.order_id)
    if order is None:
        return StageOutput.reject(f"there is no order {ctx.input.order_id}")
    kept = 0 if ctx.input.faulty else order.postage_cents
    return Owed(customer=order.customer, amount_cents=order.paid_cents - kept)


def ask(ctx: StageContext[Claim]) -> None:
    """Send each approver a link of their own: the first who decides by it is heard."""
    for name, address in APPROVERS.items():
        key = f"{ctx.idempotency_key}/{name}"
        # Each call makes another link. When this body runs again because its process died, who was mailed is not mailed
        # again; a link that was made and never sent is known to nobody, since only its hash is stored.
        if not outside.was_mailed(key):
            link = engine.approval_link(ctx.run_id, "release", to=name, expires=DECIDE_WITHIN)
            outside.mail(key, address, f"Refund for {ctx.input.order_id}", f"Please look at it and decide:\n{link}")


def payment(ctx: StageContext[Claim]) -> dict[str, object]:
    """What is to be approved. The page shows it, and the approval holds for exactly this."""
    owed = ctx.output("check", Owed)
    return {"order": ctx.input.order_id, "why": ctx.input.why, "to": owed.customer, "amount_cents": owed.amount_cents}


def refund(ctx: StageContext[Claim]) -> None:
    """Move the money. The key is the same for every attempt, so the bank moves it once."""
    outside.pay_back(ctx.idempotency_key, ctx.input.order_id, ctx.output("check", Owed).amount_cents)


def take_back(ctx: CompensationContext[Claim]) -> None:
    """Undo it, also where nobody knows whether it happened. The bank refuses the action's key from then on."""
    outside.take_back(ctx.idempotency_key, ctx.action_key)


def tell(ctx: StageContext[Claim]) -> StageOutput:
    """Tell the customer. If nobody can, something is wrong with this order, and the money is taken back."""
    owed = ctx.output("check", Owed)
    said = f"You get {owed.amount_cents / 100:.2f} back."
    try:
        outside.mail(ctx.idempotency_key, owed.customer, f"Your order {ctx.input.order_id}", said)
    except outside.Refused as refused:
        return StageOutput.reject(str(refused))
    return StageOutput.ok()


refunds = (
    Pipeline("refunds", input_type=Claim)
    .stage("check", check)
    .stage("ask", ask)
    .approve("release", of=payment, approvers=list(APPROVERS), timeout=DECIDE_WITHIN, on_denied="reject")
    .stage("refund", refund, compensate=take_back)
    .stage("tell", tell)
)
# Links begin with this address: where approvers reach the server, over TLS in earnest.
PUBLIC_URL = os.environ.get("STAGEFLOW_PUBLIC_URL", "http://127.0.0.1:8000")
engine = Engine("refunds", [refunds], public_url=PUBLIC_URL)
celery_app = engine.celery_app
server = callbacks.asgi_app(engine)
