"""Inputs, results and parameters that do not fit the pipeline or the method, and those of their twins."""

from __future__ import annotations

from pydantic import BaseModel

from stageflow_durable import Engine, Pipeline, StageOutput, Submission


class Order(BaseModel):
    order_id: str


class Receipt(BaseModel):
    payment_id: str


checkout = Pipeline("checkout", input_type=Order, result_type=Receipt)
untyped = Pipeline("untyped")
engine = Engine("shop", [checkout, untyped])
order, receipt = Order(order_id="A-1"), Receipt(payment_id="P-1")

engine.enqueue(checkout, receipt)  # E: misc / reportArgumentType
engine.enqueue(checkout, "A-1")  # E: misc / reportArgumentType
engine.enqueue(untyped, order)  # E: misc / reportArgumentType
engine.enqueue(checkout, order, idempotency="k")  # E: call-arg / reportCallIssue
engine.enqueue(checkout)  # E: call-arg / reportCallIssue
number: int = engine.enqueue(checkout, order).result()  # E: assignment / reportAssignmentType
engine.enqueue(checkout, order).result().amount  # E: attr-defined / reportAttributeAccessIssue
engine.enqueue_many(checkout, [receipt])  # E: misc / reportArgumentType
engine.enqueue_many(checkout, [Submission(receipt)])  # E: list-item / reportArgumentType
engine.enqueue_many(checkout, order)  # E: misc / reportArgumentType
engine.enqueue_many(checkout, [order], on_error="ignore")  # E: call-overload / reportCallIssue
engine.enqueue_many(checkout, [order], on_error="collect")[0].run_id  # E: union-attr / reportAttributeAccessIssue
Submission(order, key="k")  # E: call-arg / reportCallIssue
StageOutput.wait()  # E: call-arg / reportCallIssue
StageOutput.wait(timeout="1h")  # E: arg-type / reportArgumentType
engine.receive_callback("token", {"frame": 1})  # E: arg-type / reportArgumentType
engine.cancel("01J9F2", reason="no actor")  # E: call-arg / reportCallIssue
engine.runs(status="parked", offset=3)  # E: call-arg / reportCallIssue


async def main() -> None:
    handle = await engine.aenqueue(checkout, order)
    await engine.aenqueue(checkout, receipt)  # E: misc / reportArgumentType
    await engine.aenqueue(checkout, order, idempotency="k")  # E: call-arg / reportCallIssue
    await engine.aenqueue_many(checkout, [receipt])  # E: misc / reportArgumentType
    await engine.acancel("01J9F2", reason="no actor")  # E: call-arg / reportCallIssue
    await engine.aruns(status="parked", offset=3)  # E: call-arg / reportCallIssue
    await handle.aresult(timeout="soon")  # E: arg-type / reportArgumentType
    text: str = await handle.aresult()  # E: assignment / reportAssignmentType
    print(text)
