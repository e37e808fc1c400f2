"""Nothing that an application says of its own tasks touches ours."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from celery import Celery, Task

from stageflow_durable import Engine, Pipeline
from stageflow_durable.delivery.configure import ADVANCE, SWEEP
from stageflow_durable.delivery.task_class import _UnlimitedPool

HOOKS = (
    "before_start",
    "on_success",
    "on_failure",
    "on_retry",
    "after_return",
    "__call__",
    "apply_async",
    "shadow_name",
)
called: list[str] = []


def _hook(name: str) -> Any:
    def hook(*_given: Any, **_named: Any) -> None:
        called.append(name)
        raise RuntimeError(name)

    return hook


def _nothing() -> None:
    """Of a task of theirs."""


def adopted() -> Celery:
    """An application that says everything that can be said."""
    base = type("Base", (Task,), {name: _hook(name) for name in HOOKS})
    base.autoretry_for = (Exception,)  # type: ignore[attr-defined]  # as Celery's users do
    base.rate_limit = "1/h"  # type: ignore[attr-defined]  # as above
    base.acks_late = False  # type: ignore[attr-defined]  # as above
    app = Celery("theirs", broker="memory://", task_cls=base, set_as_current=False)
    app.conf.update(
        task_time_limit=1,
        task_soft_time_limit=1,
        task_default_rate_limit="1/h",
        task_acks_late=False,
        task_acks_on_failure_or_timeout=False,
        task_reject_on_worker_lost=False,
        task_track_started=True,
        task_ignore_result=False,
        task_store_errors_even_if_ignored=True,
        task_serializer="pickle",
        task_annotations={"*": {"time_limit": 1, "rate_limit": "1/h", "acks_late": False, "max_retries": 0}},
    )
    Engine("e", [Pipeline("p").stage("s", lambda ctx: 1)], celery_app=app, database_url="sqlite:///unused.db")
    app.finalize()
    return app


@pytest.mark.parametrize("name", [ADVANCE, SWEEP])
def test_given_an_application_with_settings_annotations_and_a_base_class_then_our_task_has_none_of_them(
    name: str,
) -> None:
    task = adopted().tasks[name]
    assert not isinstance(task, adopted().Task)
    assert (task.time_limit, task.soft_time_limit, task.rate_limit, task.max_retries) == (None,) * 4
    assert task.ignore_result and task.serializer == "json"
    assert not task.track_started and not task.store_errors_even_if_ignored
    assert task.acks_late is (name == ADVANCE)
    assert task.acks_on_failure and task.acks_on_timeout
    assert not hasattr(task, "autoretry_for")
    for hook in HOOKS:
        assert getattr(type(task), hook) is getattr(Task, hook), hook


def test_other_tasks_of_the_application_have_what_they_had() -> None:
    app = adopted()
    theirs = app.task(name="theirs")(_nothing)
    assert (theirs.time_limit, theirs.rate_limit, theirs.acks_late) == (1, "1/h", False)


def test_what_limits_a_worker_was_started_with_are_taken_off_a_message_of_ours() -> None:
    made = SimpleNamespace(_timeout=30, _soft_timeout=20)
    pool = SimpleNamespace(apply_async=Mock(return_value=made), num_processes=3)
    unlimited = _UnlimitedPool(pool)
    assert unlimited.apply_async("trace", args=(), timeout=5, soft_timeout=4) is made
    assert (made._timeout, made._soft_timeout) == (None, None)
    pool.apply_async.assert_called_once_with("trace", args=(), timeout=None, soft_timeout=None)
    assert unlimited.num_processes == 3
