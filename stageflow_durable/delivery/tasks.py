"""The two Celery tasks: carry a message, and sweep. Their names never change, so old messages stay valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery, Task
from celery._state import connect_on_app_finalize

from stageflow_durable.delivery.configure import ADVANCE, SWEEP, TASK_OPTIONS
from stageflow_durable.delivery.dropped import dropped
from stageflow_durable.delivery.engines import Engines
from stageflow_durable.delivery.messages import Unfit, Words, read
from stageflow_durable.delivery.spawned import Application, is_spawned
from stageflow_durable.delivery.task_class import StageflowTask
from stageflow_durable.engine.executor import Executed
from stageflow_durable.errors import SchemaBehind, StoreUnavailable
from stageflow_durable.model.work import Nudge, RetryDue

# One a second or so: no events, or monitors would list little else.
_SWEEP_OPTIONS = {**TASK_OPTIONS, "acks_late": False, "reject_on_worker_lost": False, "send_events": False}
AWAY_SECONDS = 2.0
"""How long a message waits if the database is away, or not upgraded yet."""


AWAY = (StoreUnavailable, SchemaBehind)


def register(app: Celery, engines: Engines) -> None:
    """Register our tasks with an application, for all of its engines."""

    def add(to: Celery) -> None:
        # Not lazily: in a spawned child Celery would add a lazy task to every application.
        to.task(name=ADVANCE, base=StageflowTask, bind=True, lazy=False, **TASK_OPTIONS)(advance)
        to.task(name=SWEEP, base=StageflowTask, lazy=False, **_SWEEP_OPTIONS)(sweep)

    def advance(task: Task, *given: Any, **named: Any) -> None:
        words = understood(task, given, named)
        if words is None:
            return
        try:
            process = engines.process_of(words.run_id)
        except AWAY as error:
            raise task.retry(countdown=AWAY_SECONDS, exc=error) from error
        handle_message(task, process, words)

    def sweep(*_given: Any, **_named: Any) -> None:
        for process in engines.processes():
            process.sweep()

    if app.finalized:
        add(app)
    else:  # its settings must not be read before it is used
        app.on_after_finalize.connect(lambda **_: add(app), weak=False)
    if not isinstance(app, Application):
        connect_on_app_finalize(lambda other: add(other) if _is_twin(other, app) else None)


def _is_twin(other: Celery, app: Celery) -> bool:
    """Whether ``other`` is what Celery rebuilt of ``app`` in a spawned child, from its settings."""
    return is_spawned() and other is not app and other.main == app.main


def understood(task: Any, given: Sequence[Any], named: Mapping[str, Any]) -> Words | None:
    """What a message says; None if none of our publishers wrote it, so that it is dropped."""
    try:
        return read(given, named)
    except Unfit as why:
        dropped.add(f"{task.name} {task.request.id}", str(why))
        return None


def handle_message(task: Any, process: Any, words: Words) -> None:
    """Handle one message: drop it if it is a duplicate, or not signed as the settings want; execute it; leave the rest
    to the chain's tail, to Celery's retry, or to a new message.
    """
    request = task.request
    tail = _only_the_chain(request)  # a message that finds nothing to take ends here, with the rest of its chain
    place = request.delivery_info or {}
    queue = place.get("routing_key") or process.queue
    why = process.refused(words, queue)
    if why is not None:
        dropped.add(f"{task.name} {request.id}", f"{why} (queue {queue})")
        return
    nudge = Nudge(words.run_id, words.strand, words.gen, queue, hint=words.hint, item=words.item)
    key = f"{nudge.run_id}:{nudge.address}:{nudge.gen}:{words.mark}:{request.retries}"
    if not place.get("redelivered") and not process.first(key):
        return
    try:
        executed = process.execute(nudge)
    except AWAY as error:
        process.hold_back()
        raise task.retry(countdown=AWAY_SECONDS, exc=error) from error
    if executed.retry is not None:
        _retry(task, process, executed, executed.retry, tail)
    elif tail and _continues(executed, nudge) and _follows(tail, nudge):
        request.chain = tail  # the next link is the message that the commit has to publish
        process.publish(executed.nudges[1:])
    else:
        process.publish(executed.nudges)


def _only_the_chain(request: Any) -> Any:
    """Remove everything that the message asks Celery to do after its task; returns the rest of the chain."""
    tail = request.chain
    request.chain = request.callbacks = request.errbacks = request.chord = request.group = None
    return tail


def _follows(tail: Any, nudge: Nudge) -> bool:
    """Whether the tail is the rest of this strand's chain: Celery would publish anything that it contains."""
    if not isinstance(tail, list):
        return isinstance(tail, tuple)  # the simulation's
    mine = [nudge.run_id, nudge.address, nudge.gen]
    return all(
        isinstance(link, dict) and link.get("task") == ADVANCE and list(link.get("args") or ())[:3] == mine
        for link in tail
    )


def _continues(executed: Executed, nudge: Nudge) -> bool:
    first = executed.nudges[0] if executed.nudges else None
    return first is not None and (first.address, first.gen, first.queue) == (nudge.address, nudge.gen, nudge.queue)


def _retry(task: Any, process: Any, executed: Executed, due: RetryDue, tail: Any) -> None:
    """The row becomes due in any case. For a short delay a message with a countdown is sent too, to be punctual."""
    process.publish(executed.nudges)
    if due.delay > process.short_delay:
        return
    if not executed.moved:  # the message still describes the strand, so Celery's own retry can carry the delay
        task.request.chain = tail
        raise task.retry(countdown=due.delay)
    process.publish((due.nudge,), due.delay)
