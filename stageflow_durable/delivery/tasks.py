"""The two tasks. Their names never change: a message of yesterday is understood tomorrow, stage names are data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from celery._state import connect_on_app_finalize

from stageflow_durable.delivery.configure import ADVANCE, SWEEP, TASK_OPTIONS
from stageflow_durable.delivery.spawned import Application, is_spawned
from stageflow_durable.engine.ride import Rode
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from stageflow_durable.model.work import Hint, Nudge, Waiting

_SWEEP_OPTIONS = {**TASK_OPTIONS, "acks_late": False, "reject_on_worker_lost": False}
AWAY_SECONDS = 2.0
"""How long a nudge waits when the database is away, or not yet upgraded."""


AWAY = (StoreUnavailable, SchemaBehind)


def register(app: Celery, process: Callable[[], Any]) -> None:
    """Register our tasks with an application; ``process`` gives this process's :class:`Process` at the first
    message.
    """

    def add(to: Celery) -> None:
        # At once, not lazily: in a spawned child Celery would lay a lazy task into every application there is.
        to.task(name=ADVANCE, bind=True, lazy=False, **TASK_OPTIONS)(advance)
        to.task(name=SWEEP, lazy=False, **_SWEEP_OPTIONS)(sweep)

    def advance(task: Task, run_id: str, strand: str, gen: int, mark: str) -> None:
        carry(task, process(), run_id, strand, gen, mark)

    def sweep() -> None:
        process().sweep()

    if app.finalized:
        add(app)
    else:  # reading its settings has to wait until somebody uses it
        app.on_after_finalize.connect(lambda **_: add(app), weak=False)
    if not isinstance(app, Application):
        connect_on_app_finalize(lambda other: add(other) if _is_twin(other, app) else None)


def _is_twin(other: Celery, app: Celery) -> bool:
    """Whether ``other`` is what Celery rebuilt of ``app`` in a spawned child, from its settings."""
    return is_spawned() and other is not app and other.main == app.main


def carry(task: Any, process: Any, run_id: str, strand: str, gen: int, mark: str) -> None:
    """Carry one message: drop a duplicate, ride, leave the rest to the chain's tail, to Celery's retry, or to a fresh
    message.
    """
    request = task.request
    tail, request.chain = request.chain, None  # what finds nothing to take ends here, with its tail
    mark, _, hint = mark.partition(" ")
    key = f"{run_id}:{strand}:{gen}:{mark}:{request.retries}"
    if not (request.delivery_info or {}).get("redelivered") and not process.first(key):
        return
    queue = (request.delivery_info or {}).get("routing_key") or process.queue
    nudge = Nudge(run_id, strand, gen, queue, hint=Hint.read(hint))
    try:
        rode = process.ride(nudge)
    except AWAY as error:
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
