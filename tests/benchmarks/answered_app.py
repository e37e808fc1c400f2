"""The peer whose caller waits: bare tasks and chains with a result backend, as one asks Celery for an answer."""

from __future__ import annotations

import os

from celery import Celery, chain
from celery.canvas import Signature

from tests.benchmarks.bare_app import SETTINGS, kilobyte

QUEUE = "answered"


def application(url: str | None) -> Celery:
    """An application of its own, with one link, which keeps results in the broker."""
    made = Celery("answered", broker=url, backend=url, set_as_current=False)
    results = {"result_backend": url, "task_ignore_result": False, "result_expires": 600}
    made.conf.update({**SETTINGS, **results, "task_default_queue": QUEUE})
    made.task(name="kilobyte", shared=False)(kilobyte)
    return made


def asked(sender: Celery, length: int) -> Signature:
    """One task, or a chain of that many."""
    task = sender.tasks["kilobyte"]
    first = task.s(0)
    return first if length == 1 else chain(first, *(task.s() for _ in range(length - 1)))


app = application(os.environ.get("BENCH_BROKER_URL"))
