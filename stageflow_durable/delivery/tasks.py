"""The two tasks. Their names never change: a message of yesterday is understood tomorrow, stage names are data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from stageflow_durable.delivery.configure import ADVANCE, SWEEP, TASK_OPTIONS
from stageflow_durable.engine.ride import Rode
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.work import Nudge, Waiting

AWAY_SECONDS = 2.0
"""How long a nudge waits when the database is away, or not yet upgraded."""


def register(app: Celery, process: Callable[[], Any]) -> None:
    """Register our tasks with an application; ``process`` gives this process's :class:`Process` at the first
    message.
    """

    @app.task(name=ADVANCE, bind=True, **TASK_OPTIONS)  # type: ignore[untyped-decorator]  # Celery has no types
    def advance(task: Task, run_id: str, strand: str, gen: int, mark: str) -> None:
        try:
            ready = process()
        except StoreUnavailable as error:
            raise task.retry(countdown=AWAY_SECONDS, exc=error) from error
        carry(task, ready, run_id, strand, gen, mark)

    @app.task(name=SWEEP, **{**TASK_OPTIONS, "acks_late": False, "reject_on_worker_lost": False})  # type: ignore[untyped-decorator]  # as above
    def sweep() -> None:
        process().sweep()


def carry(task: Any, process: Any, run_id: str, strand: str, gen: int, mark: str) -> None:
    """Carry one message: drop a duplicate, ride, leave the rest to the chain's tail, to Celery's retry, or to a fresh
    message.
    """
    request = task.request
    tail, request.chain = request.chain, None  # what finds nothing to take ends here, with its tail
    key = f"{run_id}:{strand}:{gen}:{mark}:{request.retries}"
    if not (request.delivery_info or {}).get("redelivered") and not process.first(key):
        return
    nudge = Nudge(run_id, strand, gen, (request.delivery_info or {}).get("routing_key") or process.queue)
    try:
        rode = process.ride(nudge)
    except StoreUnavailable as error:
        raise task.retry(countdown=AWAY_SECONDS, exc=error) from error
    if rode.waiting is not None:
        _wait(task, process, rode, rode.waiting, tail)
    elif _continues(rode, nudge) and tail:
        request.chain = tail  # the next link is the message that the commit promised
        process.publish(rode.nudges[1:])
    else:
        process.publish(rode.nudges)


def _continues(rode: Rode, nudge: Nudge) -> bool:
    first = rode.nudges[0] if rode.nudges else None
    return first is not None and (first.strand, first.gen, first.queue) == (nudge.strand, nudge.gen, nudge.queue)


def _wait(task: Any, process: Any, rode: Rode, waiting: Waiting, tail: Any) -> None:
    """The row is due at its time whatever happens here; a short delay is carried by Celery as well, to be on the
    spot.
    """
    process.publish(rode.nudges)
    if waiting.delay > process.short_delay:
        return
    if not rode.moved:  # Celery's view of the message and ours agree: its own retry carries the delay
        task.request.chain = tail
        raise task.retry(countdown=waiting.delay)
    process.publish((waiting.nudge,), waiting.delay)
