"""Which of Celery's pools an engine's stages can run in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from celery import concurrency
from celery.concurrency.prefork import TaskPool as Prefork
from celery.concurrency.solo import TaskPool as Solo

from stageflow_durable.errors import ConfigurationError

USABLE = "prefork (the default), threads or solo"


def refuse_unusable(worker: Any, queues: Sequence[str], *, adopted: bool) -> None:
    """Raise ConfigurationError, by name, for a pool whose tasks share what a stage needs for itself: an owner and its
    lease are a thread's, a database connection and a time limit are a process's, and green threads are neither.

    An adopted application's worker that serves none of the engine's queues may use what it likes.
    """
    pool = concurrency.get_implementation(worker.pool_cls)
    if is_usable(pool) or (adopted and not set(queues) & set(worker.app.amqp.queues.consume_from)):
        return
    serves = f"; or let this worker not serve {', '.join(queues)} (-Q)" if adopted else ""
    raise ConfigurationError(
        f"stages cannot run in the pool {pool.__module__}.{pool.__qualname__}: use -P {USABLE}{serves}"
    )


def is_usable(pool: type) -> bool:
    """Whether stages run in it: in Celery's prefork, threads and solo, and in what is derived from them."""
    if getattr(pool, "is_green", False):
        return False
    usable: tuple[type, ...] = (Prefork, Solo)
    try:
        from celery.concurrency.thread import TaskPool as Threads
    except ImportError:  # a Python without threads
        return issubclass(pool, usable)
    return issubclass(pool, (*usable, Threads))
