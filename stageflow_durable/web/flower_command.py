"""``celery -A shop flower`` builds a Flower of its own, and Flower has no place for pages of others: so the class that
it builds is replaced by one that serves the engine of the application too.
"""

from __future__ import annotations

import logging
from typing import Any

from flower import command
from flower.app import Flower

from stageflow_durable.delivery.engines import engines_of
from stageflow_durable.web.exposure import is_loopback
from stageflow_durable.web.flower import mount

log = logging.getLogger("stageflow.web")

_OPEN = (
    "Flower listens on %s and asks nobody who they are: the pages about runs are not served. "
    "Say --address=127.0.0.1, or --basic-auth=user:password (or --auth)"
)


class FlowerOfEngine(Flower):  # type: ignore[misc]  # Flower has no types
    """Flower with the URLs of the first engine of its application, if it has one."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)  # imports the application
        members = list(engines_of(self.capp)[0])
        if not members:
            return
        if not _asks_or_is_ours_alone(self.options):
            log.warning(_OPEN, self.options.address or "every address")
            return
        mount(members[0].engine, self)
        if len(members) > 1:
            log.warning("Flower serves the runs of engine %s alone, of %d", members[0].name, len(members))


def _asks_or_is_ours_alone(options: Any) -> bool:
    return bool(options.basic_auth or options.auth or options.unix_socket) or is_loopback(options.address or "")


def join() -> None:
    """Have Flower's command build a :class:`FlowerOfEngine`."""
    command.Flower = FlowerOfEngine
