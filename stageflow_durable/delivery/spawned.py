"""Pools that spawn their children instead of forking them: each begins as an empty interpreter, and has to find the
application again by the name of what built it.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, NamedTuple

import billiard
from celery import Celery, concurrency
from celery.concurrency.prefork import TaskPool

from stageflow_durable.errors import ConfigurationError


class Place(NamedTuple):
    """Where something can be imported from."""

    module: str
    name: str


class Application(Celery):  # type: ignore[misc]  # Celery has no types
    """An engine's own application. Celery hands its settings alone to a spawned child, where neither our task nor the
    engine would be known; this one is imported there from where it was built.
    """

    stageflow: Any = None
    log_cls = "stageflow_durable.delivery.log_lines:OneLineLogging"

    def __reduce__(self) -> Any:
        place = place_of(self.stageflow, self)
        if place is None:
            return super().__reduce__()
        return _found_again, (place, self.__reduce_keys__()["changes"])


def _found_again(place: Place, changes: dict[str, Any]) -> Celery:
    found = getattr(import_module(place.module), place.name)
    app = found if isinstance(found, Celery) else found.celery_app
    app.conf.update(changes)
    return app


def place_of(*wanted: object) -> Place | None:
    """The imported module, and the name in it, that holds the first of ``wanted`` that any module does, or None.
    Celery's own modules do not count: in a child they hold something else.
    """
    return next(filter(None, (_place(one) for one in wanted if one is not None)), None)


def _place(wanted: object) -> Place | None:
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] != "celery":
            for name, value in list(getattr(module, "__dict__", {}).items()):
                if value is wanted:
                    return Place(module_name, name)
    return None


def spawns(worker: Any) -> bool:
    """Whether a Celery worker that starts will spawn its children."""
    if not issubclass(concurrency.get_implementation(worker.pool_cls), TaskPool):
        return False
    return bool(worker.pool_start_method == "spawn" or billiard.get_start_method() != "fork")


def is_spawned() -> bool:
    """Whether this process is a spawned child: Celery says so to it, before it imports what it runs."""
    return bool(os.environ.get("FORKED_BY_MULTIPROCESSING"))


def make_importable(app: Any, engine: object) -> None:
    """Let spawned children import what builds the engine. Raises ConfigurationError when no module holds it."""
    place = place_of(engine, app)
    if place is None:
        raise ConfigurationError(
            f"engine {getattr(engine, 'name', engine)!r}: this worker spawns its children, and they cannot import the "
            "engine, for no module holds it under a name of its own; assign it to a module's variable "
            "(engine = Engine(…)), or fork: worker_pool_start_method = 'fork'"
        )
    if place.module not in app.conf.include:
        app.conf.include = (*app.conf.include, place.module)
