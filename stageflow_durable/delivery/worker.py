"""Tying an engine to Celery: an application of its own, and to a worker's life."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import (
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
    worker_shutting_down,
)

from stageflow_durable.delivery import process as worker_process
from stageflow_durable.delivery.consumer import ChildWatch, begin_boot, has_children
from stageflow_durable.delivery.intake import Intake
from stageflow_durable.delivery.life import Life
from stageflow_durable.delivery.pools import refuse_unusable
from stageflow_durable.delivery.refusing import told
from stageflow_durable.delivery.remote import RemoteControl
from stageflow_durable.delivery.spawned import Application, make_importable, spawns
from stageflow_durable.delivery.unacked import QuickAcks
from stageflow_durable.errors import ConfigurationError


def own_application(name: str, configured: Callable[[], dict[str, Any]]) -> Celery:
    """A Celery application whose settings are read at the worker's start or the first message, never at import."""
    app = Application(name, set_as_current=False)
    app.add_defaults(told(configured))
    return app


def attach(app: Celery, life: Life, engine: Any, quick_acks: Callable[[], bool], require: Callable[[], object]) -> None:
    """Let ``life`` know of this worker's processes; spawned ones import ``engine``. ``quick_acks``: see ``unacked``.
    ``require``: raises ConfigurationError where nothing of ours can work here.
    """
    app.steps["consumer"].add(Intake)
    if isinstance(app, Application):
        app.stageflow = engine
        wanted = staticmethod(lambda: engine.settings.remote_control)
        app.steps["consumer"].add(type("RemoteControl", (RemoteControl,), {"wanted": wanted}))
    app.steps["consumer"].add(type("ChildWatch", (ChildWatch,), {"lost": staticmethod(life.child_lost)}))
    app.steps["consumer"].add(type("QuickAcks", (QuickAcks,), {"wanted": staticmethod(quick_acks)}))
    worker_init.connect(begin_boot, weak=False, dispatch_uid="stageflow-boot")
    # weak=False: Celery's signals keep weak references, and these closures live nowhere else.
    worker_init.connect(lambda sender, **_: _worker_begins(sender, app, engine, require), weak=False)
    worker_process_init.connect(lambda **_: life.child_started(), weak=False)
    worker_ready.connect(lambda sender, **_: _worker_ready(sender, app, life), weak=False)
    worker_process_shutdown.connect(lambda **_: life.child_ends(), weak=False)
    worker_shutdown.connect(lambda **_: life.child_ends(), weak=False)
    worker_shutting_down.connect(_stopping, weak=False)


def _worker_begins(worker: Any, app: Celery, engine: Any, require: Callable[[], object]) -> None:
    if worker.app != app:
        return
    try:
        refuse_unusable(worker, engine.settings.queue, adopted=not isinstance(app, Application))
        if isinstance(app, Application):  # an adopted one has other tasks; each of its children says what is wrong
            require()
        if spawns(worker):
            make_importable(app, engine)
    except ConfigurationError as error:
        # What else a receiver of a signal raises is logged, and the worker would go on without a child that works.
        raise SystemExit(f"stageflow: {error}") from None


def _worker_ready(consumer: Any, app: Celery, life: Life) -> None:
    if consumer.app == app and not has_children(consumer.pool):
        life.child_started()


def _stopping(**_signal: Any) -> None:
    worker_process.stopping = True
