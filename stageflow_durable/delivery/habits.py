"""What an application's settings do to its own tasks, and how its messages are kept by RabbitMQ: for ``doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Habits:
    """``acks_late``, ``reject_on_worker_lost``: of its tasks by default. ``time_limit``: seconds, the longest that one
    may run; None: none is set. ``visibility_timeout``: None: not set. ``confirms``: whether RabbitMQ confirms what is
    published; ``quorum``, ``dead_letters``: whether the engine's queue is one, and has where to put what it drops;
    ``delivery_limit``: how often it delivers a message, None: as often as RabbitMQ does by itself.
    """

    acks_late: bool = False
    reject_on_worker_lost: bool = False
    time_limit: float | None = None
    visibility_timeout: float | None = None
    confirms: bool = False
    quorum: bool = False
    dead_letters: bool = False
    delivery_limit: int | None = None


def habits(app: Any, queue: str) -> Habits:
    """Of a Celery application, with the engine's ``queue``."""
    conf = app.conf
    options = conf.broker_transport_options or {}
    arguments = app.amqp.queues[queue].queue_arguments or {}
    limits = [limit for limit in (conf.task_time_limit, conf.task_soft_time_limit) if limit]
    return Habits(
        bool(conf.task_acks_late),
        bool(conf.task_reject_on_worker_lost),
        max(map(float, limits), default=None),
        options.get("visibility_timeout"),
        bool(options.get("confirm_publish")),
        arguments.get("x-queue-type") == "quorum",
        "x-dead-letter-exchange" in arguments,
        arguments.get("x-delivery-limit"),
    )
