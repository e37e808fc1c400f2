"""After the commit publishing never raises: the handle comes back, one warning is logged, the sweep delivers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from kombu.entity import Queue

from stageflow_durable import Engine, Pipeline
from stageflow_durable.engine.accept import Submission
from stageflow_durable.errors import PublishingFailed
from stageflow_durable.model.work import Nudge

PIPELINE = Pipeline("p").stage("s", lambda ctx: 1)
BY: Any = {"reason": "a test", "actor": "tests"}
make_queue: Any = Queue  # kombu has no types


class Hostile:
    """A router of an application's."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def route_for_task(self, *_given: object, **_named: object) -> None:
        raise self.error


class Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def missing_queue(app: Celery) -> None:
    app.conf.update(task_create_missing_queues=False, task_queues=(make_queue("celery"),))


def failing_router(app: Celery) -> None:
    app.conf.task_routes = [Hostile(TypeError("no such tenant redis://user:secret@host/0"))]


def odd_router(app: Celery) -> None:
    app.conf.task_routes = [Hostile(Odd())]


def refusing_broker(app: Celery) -> None:
    app.conf.broker_url = "sentinel://127.0.0.1:1/0"  # no master_name: kombu raises a ValueError


def unknown_transport(app: Celery) -> None:
    app.conf.broker_url = "nosuch://127.0.0.1"


def eager(app: Celery) -> None:
    app.conf.update(task_always_eager=True, task_eager_propagates=True)


TROUBLES = [missing_queue, failing_router, odd_router, refusing_broker, unknown_transport]


def engine_on(trouble: Callable[[Celery], None], database: str, broker: str) -> Engine:
    app = Celery("theirs", broker=broker, set_as_current=False)
    trouble(app)
    return Engine("e", [PIPELINE], celery_app=app, database_url=database, broker_url=broker, redis_url="off")


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.WARNING, "stageflow")
    caplog.set_level(logging.WARNING, "stageflow.accept")  # a command that runs in this process may have raised it

    def told() -> list[str]:
        found = [record.getMessage() for record in caplog.records if record.name.startswith("stageflow")]
        caplog.clear()
        return found

    return told


@pytest.mark.parametrize("trouble", TROUBLES)
def test_given_an_application_that_cannot_publish_when_runs_are_enqueued_then_they_are_recorded_with_one_warning_a_call(
    migrated_sqlite_url: str, valkey_url: str, trouble: Callable[[Celery], None], warnings: Callable[[], list[str]]
) -> None:
    engine = engine_on(trouble, migrated_sqlite_url, valkey_url)
    calls: list[Callable[[], Any]] = [
        lambda: engine.enqueue("p", {}),
        lambda: engine.enqueue_many("p", [Submission({}), Submission({})]),
    ]
    for call in calls:
        call()
        (told,) = warnings()
        assert "left to the recovery sweep" in told
        assert "secret" not in told
    assert len(engine.runs()) == 3
    engine.close()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_given_an_application_that_cannot_publish_when_a_person_steers_a_run_then_the_order_stands_with_one_warning(
    migrated_sqlite_url: str, valkey_url: str, trouble: Callable[[Celery], None], warnings: Callable[[], list[str]]
) -> None:
    engine = engine_on(trouble, migrated_sqlite_url, valkey_url)
    run = engine.enqueue("p", {}).run_id
    engine.cancel(run, **BY)
    warnings()
    engine.resume(run, **BY)
    assert len(warnings()) == 1
    engine.fork(run, "s", **BY)
    assert len(warnings()) == 1
    assert [found.status for found in engine.runs()] == ["pending", "running"]
    engine.close()


@pytest.mark.parametrize("trouble", TROUBLES)
def test_given_an_application_that_cannot_publish_when_a_run_is_enqueued_from_a_loop_then_it_is_recorded(
    migrated_sqlite_url: str, valkey_url: str, trouble: Callable[[Celery], None], warnings: Callable[[], list[str]]
) -> None:
    engine = engine_on(trouble, migrated_sqlite_url, valkey_url)
    handle = asyncio.run(engine.aenqueue("p", {}))
    assert len(warnings()) == 1
    assert handle.status() == "pending"
    engine.close()


def test_given_eager_tasks_when_a_run_is_enqueued_then_the_handle_comes_back(
    migrated_sqlite_url: str, valkey_url: str
) -> None:
    def retried(ctx: Any) -> None:
        raise ConnectionError("try again")

    app = Celery("theirs", broker=valkey_url, set_as_current=False)
    eager(app)
    pipeline = Pipeline("again").stage("s", retried)
    engine = Engine("e", [pipeline], celery_app=app, database_url=migrated_sqlite_url, redis_url="off")
    try:
        assert engine.enqueue("again", {}).describe().stages[0].attempts[0].error is not None
    finally:
        engine.close()


def test_given_a_time_limit_of_the_callers_when_it_passes_while_publishing_then_it_is_the_callers(
    migrated_sqlite_url: str, valkey_url: str
) -> None:
    def limited(app: Celery) -> None:
        app.conf.task_routes = [Hostile(SoftTimeLimitExceeded())]

    engine = engine_on(limited, migrated_sqlite_url, valkey_url)
    with pytest.raises(SoftTimeLimitExceeded):
        engine.enqueue("p", {})
    assert len(engine.runs()) == 1
    engine.close()


def test_given_what_was_not_published_when_the_application_is_put_right_then_the_sweep_delivers_it(
    migrated_sqlite_url: str, valkey_url: str, warnings: Callable[[], list[str]]
) -> None:
    broken = engine_on(failing_router, migrated_sqlite_url, valkey_url)
    run = broken.enqueue("p", {})
    with pytest.raises(PublishingFailed, match=r"TypeError: no such tenant redis://\*\*\*@host"):
        broken.publisher.publish((Nudge(run.run_id, "s", 0, "stageflow-e"),))
    assert broken.sweep().nudged == 0
    broken.close()
    right = engine_on(lambda app: None, migrated_sqlite_url, valkey_url)
    assert right.sweep().nudged == 1
    assert right.publisher.depth("stageflow-e") == 1
    assert run.status() == "pending"
    right.close()
