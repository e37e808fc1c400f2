"""The class of our two tasks, and how a worker's parent takes their messages: none of an application's own settings,
annotations, base classes and hooks gets between a message and the stages that it carries.
"""

from __future__ import annotations

import logging
from typing import Any

from celery.app.task import Task
from celery.worker.strategy import default

from stageflow_durable.delivery import shapes
from stageflow_durable.delivery.configure import SWEEP
from stageflow_durable.delivery.dropped import dropped
from stageflow_durable.delivery.intake import named

log = logging.getLogger("stageflow.worker")


class StageflowTask(Task):  # type: ignore[misc]  # Celery has no types
    """Celery's own task class, whatever base class the application gives its tasks: its hooks, its ``autoretry_for``
    and its ``__call__`` are meant for those.
    """

    abstract = True
    Strategy = f"{__name__}:strategy"
    # One message carries several stages: a limit or a rate that is meant for one task would cut them apart.
    from_config = (("priority", "task_default_priority"),)

    @classmethod
    def annotate(cls) -> None:
        """Take none of ``task_annotations``: ``{"*": …}`` is meant for tasks of the application's own."""


def strategy(task: Any, app: Any, consumer: Any) -> Any:
    """How the parent takes a message of ours: looked at, of the queue that it was taken from, and under no time limit
    but the stage's own.
    """
    take = default(task, app, _Unlimited(consumer))
    expires = task.name == SWEEP  # beat's do, so that they do not pile up

    def take_or_drop(message: Any, body: Any, ack: Any, reject: Any, callbacks: Any, **given: Any) -> Any:
        why = _misfit(message, expires=expires)
        if why is not None:
            dropped.add(named(message), why)
            message.reject_log_error(log, consumer.connection_errors)
            return None
        message.delivery_info = _delivered(message, consumer)
        return take(message, body, ack, reject, callbacks, **given)

    return take_or_drop


def _misfit(message: Any, *, expires: bool) -> str | None:
    payload = message.payload
    if isinstance(payload, dict):  # Celery's first protocol: the body says what the second's headers do
        follows = {name: payload.get(name) for name in ("callbacks", "errbacks", "chord")}
        why = shapes.ours(payload, message.properties, expires=expires)
        return why or shapes.body_of_ours(message.body, [payload.get("args"), payload.get("kwargs"), follows])
    why = shapes.ours(message.headers, message.properties, expires=expires)
    return why or shapes.body_of_ours(message.body, payload)


def _delivered(message: Any, consumer: Any) -> dict[str, Any]:
    """Where a message came from: from the queue that it was taken from, whatever it says itself."""
    info = message.delivery_info
    queue = _queue(message, consumer)
    if queue is None:
        return dict(info)
    again = info.get("redelivered") is True or message.headers.get("redelivered") is True
    return {"exchange": "", "routing_key": queue, "redelivered": again}


def _queue(message: Any, consumer: Any) -> str | None:
    intake = getattr(getattr(message.channel, "connection", None), "stageflow_intake", None)
    if intake is not None and intake.queue is not None:
        return str(intake.queue)
    tag = message.delivery_info.get("consumer_tag")
    tags = getattr(consumer.task_consumer, "_active_tags", {})  # nothing public tells which queue a tag is of
    return next((name for name, of in tags.items() if of == tag), None) if tag else None


class _Unlimited:
    """A consumer, as the strategy sees it, whose pool puts no limit on a message."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self.pool = _UnlimitedPool(consumer.pool)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class _UnlimitedPool:
    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """As the pool's own. What limits a worker was started with are in the pool, and 0 means those: only on what it
        made can they be taken off, before a child has accepted it.
        """
        result = self._pool.apply_async(*args, **{**options, "timeout": None, "soft_timeout": None})
        if hasattr(result, "_soft_timeout"):
            result._timeout = result._soft_timeout = None  # noqa: SLF001  # as above
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)
