"""Who is told of what happens to runs: ``Engine(sinks=[…], on_attention=…)``.

A function, or one of these: :class:`Log`, :class:`Webhook`, :class:`RedisStream`, :class:`Command`, :class:`Traces`; or
any object with ``name``, ``kinds`` and ``deliver(event)``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stageflow_durable.model.sinks import RunEvent, Sink, SinkView
    from stageflow_durable.sinks.command import Command
    from stageflow_durable.sinks.function import Function
    from stageflow_durable.sinks.log import Log
    from stageflow_durable.sinks.redis_stream import RedisStream
    from stageflow_durable.sinks.traces import Traces
    from stageflow_durable.sinks.webhook import Webhook

_WHERE = {
    "Command": "sinks.command",
    "Function": "sinks.function",
    "Log": "sinks.log",
    "RedisStream": "sinks.redis_stream",
    "RunEvent": "model.sinks",
    "Sink": "model.sinks",
    "SinkView": "model.sinks",
    "Traces": "sinks.traces",
    "Webhook": "sinks.webhook",
}

__all__ = ["Command", "Function", "Log", "RedisStream", "RunEvent", "Sink", "SinkView", "Traces", "Webhook"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"stageflow_durable.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
