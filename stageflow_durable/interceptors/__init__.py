"""Interceptors wrap a stage's body: each calls the next one, the innermost the body. Observers are told after the
commit.

An interceptor never swallows: what it returns or raises is the attempt's outcome. An observer changes nothing: the
outcome is saved by then, and an error in a log line must never turn a charge into a refund.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.interceptors.hooks import BaseInterceptor, ErrorAction, InterceptorResult
from stageflow_durable.interceptors.protocol import CallNext, Interceptor, check_observers, in_order

if TYPE_CHECKING:
    from stageflow_durable.idempotency.store import IdempotencyStore


def get_default_interceptors(
    *, include_idempotency: bool = True, idempotency_store: IdempotencyStore | None = None
) -> list[Any]:
    """What an engine uses when nothing is said, in the order of their priorities.

    The engine itself commits each stage of a run once, retries and undoes: without a store the list is empty. With
    ``idempotency_store`` it holds an ``IdempotencyInterceptor`` on it. Raises ConfigurationError for a store that
    ``include_idempotency=False`` leaves no use for.
    """
    if idempotency_store is None:
        return []
    if not include_idempotency:
        raise ConfigurationError("get_default_interceptors: include_idempotency=False leaves idempotency_store unused")
    from stageflow_durable.idempotency.interceptor import IdempotencyInterceptor

    return [IdempotencyInterceptor(idempotency_store)]


__all__ = [
    "BaseInterceptor",
    "CallNext",
    "ErrorAction",
    "Interceptor",
    "InterceptorResult",
    "check_observers",
    "get_default_interceptors",
    "in_order",
]
