# pyright: strict
"""Runs have the types that their pipeline says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, assert_type

from pydantic import BaseModel

from stageflow_durable import Engine, Pipeline, RunHandle, StageflowError, Submission
from stageflow_durable.model.run import CallbackReceipt, RunSummary


class Order(BaseModel):
    order_id: str


class Large(Order):
    pallets: int


class Receipt(BaseModel):
    payment_id: str


checkout = Pipeline("checkout", input_type=Order, result_type=Receipt)
untyped = Pipeline("untyped")
engine = Engine("shop", [checkout, untyped])
order = Order(order_id="A-1")

# One run, of the pipeline or of its name.
assert_type(engine.enqueue(checkout, order, client_id="web", deadline=timedelta(hours=1)), RunHandle[Receipt])
assert_type(engine.enqueue(checkout, Large(order_id="A-2", pallets=2)), RunHandle[Receipt])
assert_type(engine.enqueue(checkout, {"order_id": "A-1"}).result(timeout=30), Receipt)
assert_type(engine.enqueue(untyped, {"n": 1}).result(), dict[str, Any])
assert_type(engine.enqueue("checkout", order), RunHandle[Any])
assert_type(engine.enqueue("checkout", {"order_id": "A-1"}), RunHandle[Any])
assert_type(engine.handle("01J9F2"), RunHandle[Any])
assert_type(engine.pipeline(checkout), Pipeline[Order, Receipt])

# Many, plain or with options of their own.
assert_type(engine.enqueue_many(checkout, [order, order]), list[RunHandle[Receipt]])
assert_type(engine.enqueue_many(checkout, [{"order_id": "A-1"}]), list[RunHandle[Receipt]])
assert_type(engine.enqueue_many(checkout, [Submission(order, idempotency_key="k")]), list[RunHandle[Receipt]])
assert_type(engine.enqueue_many(untyped, [{"n": 1}], on_error="raise"), list[RunHandle[dict[str, Any]]])
collected = engine.enqueue_many(checkout, [order], on_error="collect")
assert_type(collected, list[RunHandle[Receipt] | StageflowError])
engine.enqueue_many("checkout", [1, Submission(2)])
mappings = [Submission({"order_id": f"A-{number}"}) for number in range(3)]
engine.enqueue_many(checkout, mappings)
engine.enqueue_many(untyped, mappings)


def orders() -> Iterator[Order | Submission[Order]]:
    yield order
    yield Submission(order, priority=9)


engine.enqueue_many(checkout, orders())


def outcome(handle: RunHandle[Receipt]) -> str:
    return handle.result().payment_id


async def main() -> None:
    handle = await engine.aenqueue(checkout, order, idempotency_key="k")
    assert_type(handle, RunHandle[Receipt])
    assert_type(await handle.aresult(timeout=3), Receipt)
    assert_type(await engine.aenqueue(untyped, {}), RunHandle[dict[str, Any]])
    assert_type(await engine.aenqueue("checkout", {}), RunHandle[Any])
    assert_type(await engine.aenqueue_many(checkout, [order]), list[RunHandle[Receipt]])
    assert_type(
        await engine.aenqueue_many(checkout, orders(), on_error="collect"), list[RunHandle[Receipt] | StageflowError]
    )
    assert_type(await engine.acancel("01J9F2", reason="r", actor="a"), RunSummary)
    assert_type(await engine.afork("01J9F2", "charge"), RunHandle[Any])
    assert_type(await engine.areceive_callback("token", b"{}"), CallbackReceipt)
