"""Publishing from templates: nudges filled in and pushed, where that is what Celery would have sent."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from celery import Celery
from celery._state import get_current_worker_task
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from stageflow_durable.delivery.signing import UNSIGNED, Signer
from stageflow_durable.delivery.template import Blanks, Template, Unlike, is_told, make, sends_as_celery
from stageflow_durable.idempotency.wires import Wires, connector
from stageflow_durable.model.work import Nudge

log = logging.getLogger("stageflow.publish")

CONNECT_SECONDS = 4.0
BATCH = 500
"""Messages that are sent to the broker at once."""

BOUNDS = {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": 10.0}
"""For an application that sets none: a broker that stands still has to show."""

KINDS = 200
"""Templates that are kept: one a queue and priority."""

_AWAY = (OperationalError, RedisError, OSError)
_VARIANT = {digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")}


class QuickPublisher:
    """Sends nudges as single links from templates: whoever carries one publishes the next from the rows. ``batch``:
    messages that are sent at once.
    """

    def __init__(self, app: Celery, batch: int = BATCH, signer: Signer = UNSIGNED) -> None:
        self._app = app
        self._batch = batch
        self._marked = signer.mark
        self._wires = Wires(self._connection)
        self._templates: dict[tuple[str, int | None], Template] = {}
        self._pid = os.getpid()
        self._usual = False

    def publish(self, nudges: tuple[Nudge, ...]) -> bool:
        """Send all of them. False: nothing was sent, they have to go the usual way. Raises what redis-py and kombu
        raise when the broker does not answer.
        """
        if self._usual or is_told():
            return False
        try:
            self._push(self._filled(nudges))
        except Unlike as unlike:
            log.info("messages are published by Celery itself: %s", unlike)
            self._usual = True
            return False
        return True

    def _push(self, filled: Mapping[str, list[str]]) -> None:
        for key, texts in filled.items():
            for start in range(0, len(texts), self._batch):
                self._wires.ask("LPUSH", key, *texts[start : start + self._batch])

    def _filled(self, nudges: tuple[Nudge, ...]) -> dict[str, list[str]]:
        if self._pid != os.getpid():  # the parent's name is in each of them
            self._templates, self._pid = {}, os.getpid()
        (root, sender), reply_to = _sender(), self._app.thread_oid
        filled = defaultdict(list)
        for nudge in nudges:
            template, (task, tag) = self._template(nudge), _uuids()
            # Marked as the first link of the chain that Celery would carry.
            link = nudge.run_id, nudge.address, nudge.gen, self._marked(nudge, 0)
            filled[template.key].append(template.fill(Blanks(*link, task, root or task, sender, reply_to, tag)))
        return filled

    def _template(self, nudge: Nudge) -> Template:
        kind = nudge.queue, nudge.priority
        template = self._templates.get(kind)  # once: another thread may clear them
        if template is None:
            template = self._made(*kind)
            if len(self._templates) >= KINDS:
                self._templates.clear()
            self._templates[kind] = template
        return template

    def _made(self, queue: str, priority: int | None) -> Template:
        with self._app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
            if not sends_as_celery(self._app, connection):
                raise Unlike("another transport, or settings of this application's own")
            try:
                options = {"queue": queue, "ignore_result": True, "kwargsrepr": "{}"}
                given = {} if priority is None else {"priority": priority}
                return make(self._app, connection.channel(), {**options, **given})
            except (*_AWAY, Unlike, SoftTimeLimitExceeded):
                raise
            except Exception as error:
                # What an application, a plug-in or another version adds is theirs; its own way of sending knows it.
                log.debug("no template", exc_info=True)
                raise Unlike(f"{type(error).__name__}: {error}") from error

    def _connection(self) -> Any:
        with self._app.connection_for_write(connect_timeout=CONNECT_SECONDS) as connection:
            return connector(connection.channel().pool, BOUNDS)()

    def close(self) -> None:
        """Close this process's connections."""
        self._wires.close()


def _sender() -> tuple[str | None, str | None]:
    """The root and the id of the task that sends; None where none does."""
    task = get_current_worker_task()
    request = None if task is None else task.request
    return (None, None) if request is None else (request.root_id or request.id, request.id)


def _uuids() -> tuple[str, str]:
    """Two random ones, as Celery's ids are; by way of the module they take three times as long, at every message."""
    d = os.urandom(32).hex()
    return (
        f"{d[:8]}-{d[8:12]}-4{d[13:16]}-{_VARIANT[d[16]]}{d[17:20]}-{d[20:32]}",
        f"{d[32:40]}-{d[40:44]}-4{d[45:48]}-{_VARIANT[d[48]]}{d[49:52]}-{d[52:]}",
    )
