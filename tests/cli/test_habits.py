"""What ``doctor`` says of an adopted application's own tasks, and of RabbitMQ: each row of the guides is a check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from kombu.entity import Queue

from stageflow_durable.cli.checks import Check, Level
from stageflow_durable.cli.habits import own_tasks, rabbitmq
from stageflow_durable.delivery.habits import Habits, habits

_queue: Callable[..., Any] = Queue  # kombu's own signature is untyped


def app(**conf: Any) -> Celery:
    made = Celery("theirs", set_as_current=False)
    made.conf.update(conf)
    return made


def of(transport: str = "redis", *, adopted: bool = True, **conf: Any) -> dict[str, Check]:
    found = habits(app(**conf), "stageflow")
    return {
        check.name: check
        for check in (*own_tasks(found, transport, adopted=adopted), *rabbitmq(found, transport, "stageflow"))
    }


def levels(checks: dict[str, Check]) -> dict[str, Level]:
    return {name: check.level for name, check in checks.items()}


def test_late_acknowledgement_without_its_other_half_loses_tasks_of_theirs() -> None:
    found = of(task_acks_late=True)["your tasks, late"]
    assert (found.level, found.fix) == (Level.WARN, "celery_app.conf.task_reject_on_worker_lost = True")
    assert "a killed process loses the message of your own task" in found.message
    assert of(task_acks_late=True, task_reject_on_worker_lost=True)["your tasks, late"].level is Level.OK
    assert of()["your tasks, late"].level is Level.OK


@pytest.mark.parametrize(
    ("conf", "level"),
    [
        ({"broker_transport_options": {"visibility_timeout": 30}}, Level.WARN),
        ({"broker_transport_options": {"visibility_timeout": 30}, "task_time_limit": 20}, Level.OK),
        ({"task_time_limit": 7200}, Level.WARN),
        ({"task_time_limit": 7200, "broker_transport_options": {"visibility_timeout": 7300}}, Level.OK),
        ({}, Level.OK),
    ],
)
def test_a_visibility_timeout_shorter_than_a_task_doubles_tasks_of_theirs(conf: dict[str, Any], level: Level) -> None:
    assert of(task_acks_late=True, **conf)["your tasks, twice"].level is level


def test_rabbitmq_is_asked_for_confirms_and_a_quorum_queue() -> None:
    assert levels(of("amqp", adopted=False)) == {"rabbitmq confirms": Level.WARN, "rabbitmq queue": Level.WARN}
    good = of(
        "pyamqp",
        adopted=False,
        broker_transport_options={"confirm_publish": True},
        task_queues=[_queue("stageflow", queue_arguments={"x-queue-type": "quorum", "x-dead-letter-exchange": "dead"})],
    )
    assert levels(good) == dict.fromkeys(("rabbitmq confirms", "rabbitmq queue", "rabbitmq delivery limit"), Level.OK)
    assert good["rabbitmq queue"].message == "stageflow is a quorum queue, with dead letters"
    assert of("amqp", task_create_missing_queue_type="quorum")["rabbitmq queue"].level is Level.OK


def test_a_broker_is_told_only_what_is_its_own() -> None:
    assert [*rabbitmq(Habits(), "redis", "q")] == []
    assert [check.name for check in own_tasks(replace(Habits(), acks_late=True), "amqp", adopted=True)] == [
        "your tasks, late"
    ]
    assert [*own_tasks(Habits(acks_late=True), "redis", adopted=False)] == []
