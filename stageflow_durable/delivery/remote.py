"""Celery's remote control of workers: whoever reaches the broker can send a command to all of them.

Workers of an engine's own application answer what only looks, which is what monitors and health checks ask for, and
refuse what changes a worker, unless it is asked for (ADR 0027). An adopted application's workers obey as they ever did.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery import bootsteps
from celery.worker.consumer.control import Control
from celery.worker.control import Panel

from stageflow_durable.delivery.dropped import Dropped
from stageflow_durable.errors import ConfigurationError

log = logging.getLogger("stageflow.worker")

HARMLESS = frozenset({"enable_events", "disable_events", "heartbeat"})
"""Commands that Celery counts among those that change something, and that every monitor sends: what they switch is
what monitors hear.
"""

COSTLY = frozenset({"memdump", "memsample", "objgraph"})
"""Commands that only look, and write files, or hold the worker up while they do."""

GREETING = "hello"
"""What a worker that starts asks the others; it tells them at the same time which tasks they are to forget."""

Command = Callable[..., Any]


class RemoteControl(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Narrows what the worker's mailbox obeys. ``wanted``: the setting."""

    requires = ("celery.worker.consumer.control:Control",)
    wanted: Callable[[], str] | None = None

    def __init__(self, consumer: Any, **_options: Any) -> None:
        """Nothing to prepare."""

    def start(self, consumer: Any) -> None:
        """Narrow it; called again after each reconnect, of the same mailbox."""
        try:
            allowed = "look" if self.wanted is None else self.wanted()
        except ConfigurationError:
            allowed = "look"  # each child says what is wrong
        if allowed == "all":
            return
        for step in consumer.blueprint.steps.values():
            if isinstance(step, Control):
                step.box.node.handlers = narrowed(Panel.data, Panel.meta)


def narrowed(commands: Mapping[str, Command], meta: Mapping[str, Any]) -> dict[str, Command]:
    """The commands, those that change something replaced by a refusal. One that an application has registered is what
    it was registered as.
    """
    looks = {commands[name] for name, told in meta.items() if told.type == "inspect" and name not in COSTLY}
    looks |= {commands[name] for name in HARMLESS if name in commands}
    dropped = Dropped()
    narrow = {name: act if act in looks else _refused(name, dropped) for name, act in commands.items()}
    if GREETING in commands:
        narrow[GREETING] = _without_orders(commands[GREETING])
    return narrow


def _refused(name: str, dropped: Dropped) -> Command:
    def refuse(_state: Any, **_arguments: Any) -> dict[str, str]:
        dropped.add(f"remote command {name}", "workers answer what only looks (STAGEFLOW_REMOTE_CONTROL)")
        return {"error": f"{name} refused: this worker answers what only looks; STAGEFLOW_REMOTE_CONTROL=all allows it"}

    return refuse


def _without_orders(greet: Command) -> Command:
    def greeted(state: Any, from_node: Any = None, **_orders: Any) -> Any:
        return greet(state, str(from_node)[:255])

    return greeted
