"""Runs in Django's transactions.

::

with transaction.atomic():
order.save()
enqueue(engine, checkout, {"order_id": order.id}, idempotency_key=f"order-{order.id}")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stageflow_durable.model.pipeline import InputT, Pipeline, ResultT
from stageflow_durable.state.in_django import DjangoTransaction

if TYPE_CHECKING:
    from stageflow_durable.application import Engine
    from stageflow_durable.engine.handle import RunHandle

__all__ = ["enqueue"]


def enqueue(
    engine: Engine,
    pipeline: str | Pipeline[InputT, ResultT],
    input: InputT | Mapping[str, Any],
    *,
    using: str = "default",
    **options: Any,
) -> RunHandle[ResultT]:
    """:meth:`stageflow_durable.Engine.enqueue` in the transaction that is open on Django's connection ``using``: the
    run is there if and only if that commits. ``options``: those of ``enqueue``.

    Raises ConfigurationError outside ``atomic()``, or on another database than the engine's, and what ``enqueue``
    raises. What is refused leaves the transaction as it was.
    """
    return engine.enqueue(pipeline, input, connection=DjangoTransaction(using), **options)
