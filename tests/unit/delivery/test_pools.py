"""Pools that stages cannot run in are refused by name, where a worker would serve the engine's queue with them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency.base import BasePool
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as Solo
from celery.concurrency.thread import TaskPool as Threads

from stageflow_durable.delivery.pools import refuse_unusable
from stageflow_durable.errors import ConfigurationError

pool_class: Any = BasePool


class Green(pool_class):  # type: ignore[misc]  # as Celery's for gevent and eventlet are
    is_green = True


class Custom(pool_class):  # type: ignore[misc]  # as CELERY_CUSTOM_WORKER_POOL names one
    """Of another make."""


class GreenSolo(Solo):  # type: ignore[misc]  # as above
    is_green = True


class Sturdy(Prefork):  # type: ignore[misc]  # as above
    """Derived from one that stages run in."""


def worker(pool: type, *queues: str) -> Any:
    consumed = SimpleNamespace(consume_from=dict.fromkeys(queues))
    return SimpleNamespace(pool_cls=pool, app=SimpleNamespace(amqp=SimpleNamespace(queues=consumed)))


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("pool", [Prefork, Threads, Solo, Sturdy])
def test_a_pool_that_stages_run_in_is_fine(pool: type, adopted: bool) -> None:
    refuse_unusable(worker(pool, "lane"), ["lane"], adopted=adopted)


@pytest.mark.parametrize("adopted", [False, True])
@pytest.mark.parametrize("pool", [Green, Custom, GreenSolo])
def test_another_is_refused_by_name_with_those_that_are_fine(pool: type, adopted: bool) -> None:
    with pytest.raises(ConfigurationError, match=rf"{pool.__name__}: use -P prefork \(the default\), threads or solo"):
        refuse_unusable(worker(pool, "celery", "lane"), ["lane"], adopted=adopted)


def test_an_adopted_applications_worker_that_does_not_serve_the_queue_may_use_any() -> None:
    refuse_unusable(worker(Green, "celery"), ["lane"], adopted=True)
    with pytest.raises(ConfigurationError):
        refuse_unusable(worker(Green, "celery"), ["lane"], adopted=False)
