"""The peer: a Celery chain as one writes it without a library, acknowledged late, prefetching one, without results.

It keeps nothing: what a crash loses is lost, what is redelivered runs twice. Its speed is the price of messages.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from celery import Celery, chain
from redis import Redis

from tests.benchmarks.pipelines import output

QUEUE = "bare"
DONE = "bench:done"
"""The counter of finished chains."""

SETTINGS = {
    "result_backend": None,
    "task_ignore_result": True,
    "task_default_queue": QUEUE,
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    "task_serializer": "json",
    "accept_content": ["json"],
    "broker_connection_retry_on_startup": True,
}


def number(value: int) -> int:
    """A link that passes an integer on."""
    return value + 1


def kilobyte(value: Any) -> dict[str, str]:
    """A link that passes 1 KB on, made by itself."""
    return output()


def last(value: Any) -> None:
    """The last link: counts its chain."""
    _client().incr(DONE)


@lru_cache(maxsize=1)
def _client() -> Any:
    return Redis.from_url(os.environ["BENCH_BROKER_URL"])


def application(url: str | None) -> Celery:
    """An application of its own, with the three links."""
    made = Celery("bare", broker=url, set_as_current=False)
    made.conf.update(SETTINGS)
    for link in (number, kilobyte, last):
        made.task(name=link.__name__, shared=False)(link)
    return made


def chain_of(sender: Celery, length: int, link: str) -> Any:
    """A chain of that many links, the counting one included."""
    task = sender.tasks[link]
    return chain(task.s(0), *(task.s() for _ in range(length - 2)), sender.tasks["last"].s())


app = application(os.environ.get("BENCH_BROKER_URL"))
