"""What ``stageflow doctor`` thinks of an application's own tasks, and of RabbitMQ. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from stageflow_durable.cli.checks import Check, Level, judged

if TYPE_CHECKING:
    from stageflow_durable.delivery.habits import Habits

REDIS = ("redis", "rediss", "sentinel")
RABBITMQ = ("amqp", "amqps", "pyamqp")
CELERYS_OWN_SECONDS = 3600.0
"""The visibility timeout that kombu uses where none is set."""


def own_tasks(habits: Habits, transport: str, *, adopted: bool) -> Iterator[Check]:
    """Settings of an adopted application that put its other tasks at risk; the engine's bring their own."""
    if not adopted:
        return
    yield judged(
        "your tasks, late",
        not habits.acks_late or habits.reject_on_worker_lost,
        "task_acks_late and task_reject_on_worker_lost agree",
        "task_acks_late without task_reject_on_worker_lost: a killed process loses the message of your own task",
        "celery_app.conf.task_reject_on_worker_lost = True",
        level=Level.WARN,
    )
    if transport in REDIS and habits.acks_late:
        yield _again(habits)


def _again(habits: Habits) -> Check:
    seconds = CELERYS_OWN_SECONDS if habits.visibility_timeout is None else float(habits.visibility_timeout)
    # Without a limit nobody knows how long they run: what is shorter than Celery's own hour was chosen for some reason.
    needed = CELERYS_OWN_SECONDS if habits.time_limit is None else habits.time_limit
    longer = "a task may run longer" if habits.time_limit is None else f"a task may run {habits.time_limit:g} s"
    return judged(
        "your tasks, twice",
        seconds >= needed,
        f"delivered again after {seconds:g} s at the earliest",
        f"visibility timeout {seconds:g} s: {longer}, and is then delivered again while it runs",
        f'celery_app.conf.broker_transport_options["visibility_timeout"] = {needed:.0f}',
        level=Level.WARN,
    )


def rabbitmq(habits: Habits, transport: str, queue: str) -> Iterator[Check]:
    """How RabbitMQ keeps what it is given; runs survive all of it, by the sweep, later."""
    if transport not in RABBITMQ:
        return
    yield judged(
        "rabbitmq confirms",
        habits.confirms,
        "what is published is confirmed",
        "confirm_publish is off: what RabbitMQ refuses or drops is not noticed; runs survive it, by the sweep, later",
        'celery_app.conf.broker_transport_options["confirm_publish"] = True',
        level=Level.WARN,
    )
    yield judged(
        "rabbitmq queue",
        habits.quorum,
        f"{queue} is a quorum queue{', with dead letters' if habits.dead_letters else ''}",
        f"{queue} is a classic queue: it is on one node, and gone with it; runs survive it, by the sweep, later",
        'celery_app.conf.task_create_missing_queue_type = "quorum" (a classic one that is there is deleted first)',
        level=Level.WARN,
    )
    if habits.quorum:
        yield judged(
            "rabbitmq delivery limit",
            habits.dead_letters or habits.delivery_limit is not None,
            "what is delivered too often is kept as a dead letter"
            if habits.dead_letters
            else f"after {habits.delivery_limit} deliveries",
            f"{queue} has neither a delivery limit of its own nor dead letters: after 20 deliveries RabbitMQ throws a "
            "message away, unseen; runs survive it, by the sweep, later",
            f'celery_app.conf.task_queues = [Queue("{queue}", queue_arguments={{"x-queue-type": "quorum", '
            '"x-delivery-limit": 1000, "x-dead-letter-exchange": "dead-letters"})]',
            level=Level.WARN,
        )
