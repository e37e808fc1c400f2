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
from stageflow_durable.delivery.acknowledge import QuickAcks
from stageflow_durable.delivery.bad_settings import in_a_line
from stageflow_durable.delivery.consumed import remember, settle
from stageflow_durable.delivery.consumer import ChildWatch, begin_boot, has_children
from stageflow_durable.delivery.engines import Engines
from stageflow_durable.delivery.intake import Intake
from stageflow_durable.delivery.pools import refuse_unusable
from stageflow_durable.delivery.remote import RemoteControl
from stageflow_durable.delivery.spawned import Application, make_importable, spawns
from stageflow_durable.errors import ConfigurationError


def own_application(name: str, configured: Callable[[], dict[str, Any]]) -> Celery:
    """A Celery application whose settings are read at the worker's start or the first message, never at import."""
    app = Application(name, set_as_current=False)
    app.add_defaults(in_a_line(configured))
    return app


def attach(app: Celery, engines: Engines) -> None:
    """Let an application's engines know of its worker's processes; spawned ones import what builds the engines."""
    app.steps["consumer"].add(Intake)
    if isinstance(app, Application):
        first = next(iter(engines)).engine
        wanted = staticmethod(lambda: first.settings.remote_control)
        app.steps["consumer"].add(type("RemoteControl", (RemoteControl,), {"wanted": wanted}))
    app.steps["consumer"].add(type("ChildWatch", (ChildWatch,), {"lost": staticmethod(engines.child_lost)}))
    quick = staticmethod(lambda: all(member.quick_acks() for member in engines))
    app.steps["consumer"].add(type("QuickAcks", (QuickAcks,), {"wanted": quick}))
    worker_init.connect(begin_boot, weak=False, dispatch_uid="stageflow-boot")
    # weak=False: Celery's signals keep weak references, and these closures live nowhere else.
    worker_init.connect(lambda sender, **_: _worker_begins(sender, app, engines), weak=False)
    worker_process_init.connect(lambda **_: engines.child_started(), weak=False)
    worker_ready.connect(lambda sender, **_: _worker_ready(sender, app, engines), weak=False)
    worker_process_shutdown.connect(lambda **_: engines.child_ends(), weak=False)
    worker_shutdown.connect(lambda **_: engines.child_ends(), weak=False)
    worker_shutting_down.connect(_stopping, weak=False)


def _worker_begins(worker: Any, app: Celery, engines: Engines) -> None:
    if worker.app != app:
        return
    try:
        for member in engines:
            refuse_unusable(worker, member.queues(), adopted=not isinstance(app, Application))
            if isinstance(app, Application):  # an adopted one has other tasks; its children say what is wrong
                member.require_usable()
            if spawns(worker):
                make_importable(app, member.engine)
            settle(worker, member.name, member.queues())
    except ConfigurationError as error:
        # What else a receiver of a signal raises is logged, and the worker would go on without a child that works.
        raise SystemExit(f"stageflow: {error}") from None
    remember(worker, (member.name for member in engines))


def _worker_ready(consumer: Any, app: Celery, engines: Engines) -> None:
    if consumer.app == app and not has_children(consumer.pool):
        engines.child_started()


def _stopping(**_signal: Any) -> None:
    worker_process.stopping = True
