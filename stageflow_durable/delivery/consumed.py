"""Which queues a worker consumes: settled as it starts, in the parent, and known to all its children."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from typing import Any

from stageflow_durable.delivery.spawned import Application
from stageflow_durable.model.roster import LEGACY_QUEUE

log = logging.getLogger("stageflow.worker")

_CONSUMED = "STAGEFLOW_INTERNAL_CONSUMED"
_ENGINES = "STAGEFLOW_INTERNAL_WORKER_OF"


def takes_json(app: Any) -> bool:
    """Whether an application's workers accept JSON, which our messages are; kombu's default does."""
    accepted = app.conf.accept_content
    return accepted is None or not {"json", "application/json"}.isdisjoint(accepted)


NO_JSON = (
    "engine {name!r}: the Celery application accepts {accepted} and no JSON, which the engine's messages are: each of "
    "them would be refused; set celery_app.conf.accept_content = [{with_json}]"
)


def no_json(app: Any, name: str) -> str:
    """What to say of an application that takes no JSON."""
    accepted = [str(kind) for kind in app.conf.accept_content]
    with_json = ", ".join(f'"{kind}"' for kind in (*accepted, "json"))
    return NO_JSON.format(name=name, accepted=", ".join(accepted) or "nothing", with_json=with_json)


def settle(worker: Any, name: str, ours: Iterable[str]) -> None:
    """Settle what of an engine's queues a starting worker consumes. A worker that takes no JSON serves none of them;
    ends the worker where it would have nothing else to do.
    """
    queues, ours = worker.app.amqp.queues, tuple(ours)
    if LEGACY_QUEUE in ours:
        _old_and_new(queues, ours[0], isinstance(worker.app, Application))
    if not takes_json(worker.app):
        log.error("%s; this worker does not serve %s", no_json(worker.app, name), ", ".join(ours))
        queues.deselect(ours)
        if not queues.consume_from:
            # What else a receiver of a signal raises is logged, and the worker would go on with nothing to do.
            raise SystemExit(f"stageflow: {no_json(worker.app, name)}")
    elif not any(queue in queues.consume_from for queue in ours):
        served = ", ".join(queues.consume_from)
        log.info("this worker serves %s, and no queue of engine %s: %s", served, name, ", ".join(ours))


def _old_and_new(queues: Any, own: str, is_ours: bool) -> None:
    """Runs of older releases name the default queue of then, and so does -Q where it was written for them: who serves
    one of the two by default, or the old one by name, serves both.
    """
    if is_ours and queues._consume_from is None:  # noqa: SLF001  # nothing public tells whether -Q was given
        queues.select_add(queues[LEGACY_QUEUE])
    elif LEGACY_QUEUE in queues.consume_from and own not in queues.consume_from:
        log.info("this worker serves %s as well, which is the default now: -Q names the one of before", own)
        queues.select_add(queues[own])


def remember(worker: Any, engines: Iterable[str]) -> None:
    """Tell the children, which inherit the environment by fork and by spawn alike: the queues, and which engines this
    worker is of. Another engine that was merely imported has no worker here.
    """
    os.environ[_CONSUMED] = json.dumps(sorted(worker.app.amqp.queues.consume_from))
    os.environ[_ENGINES] = json.dumps(sorted(engines))


def is_worker_of(engine: str) -> bool:
    """Whether this process's worker is that engine's, as far as it was told."""
    told = os.environ.get(_ENGINES)
    return told is None or engine in json.loads(told)


def consumed() -> tuple[str, ...] | None:
    """The queues that this process's worker consumes; None outside of a worker."""
    told = os.environ.get(_CONSUMED)
    return None if told is None else tuple(json.loads(told))
