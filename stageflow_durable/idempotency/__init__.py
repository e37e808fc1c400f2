"""Idempotency: keys, the stores that remember them, and the interceptor that puts a stage behind one.

Stores that need a client library are imported at their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.idempotency.interceptor import IdempotencyInterceptor, IdempotentStageMixin
    from stageflow_durable.idempotency.keys import Scope, stage_key, valid_key
    from stageflow_durable.idempotency.memory import MemoryIdempotencyStore
    from stageflow_durable.idempotency.nudges import NudgeGate
    from stageflow_durable.idempotency.redis import RedisIdempotencyStore
    from stageflow_durable.idempotency.sql import SqlIdempotencyStore
    from stageflow_durable.idempotency.store import Claimed, Done, IdempotencyStore, InProgress, Loss

_HOMES = {
    "Claimed": "store",
    "Done": "store",
    "IdempotencyInterceptor": "interceptor",
    "IdempotencyStore": "store",
    "IdempotentStageMixin": "interceptor",
    "InProgress": "store",
    "Loss": "store",
    "MemoryIdempotencyStore": "memory",
    "NudgeGate": "nudges",
    "RedisIdempotencyStore": "redis",
    "Scope": "keys",
    "SqlIdempotencyStore": "sql",
    "stage_key": "keys",
    "valid_key": "keys",
}

__all__ = [
    "Claimed",
    "Done",
    "IdempotencyInterceptor",
    "IdempotencyStore",
    "IdempotentStageMixin",
    "InProgress",
    "Loss",
    "MemoryIdempotencyStore",
    "NudgeGate",
    "RedisIdempotencyStore",
    "Scope",
    "SqlIdempotencyStore",
    "stage_key",
    "valid_key",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
