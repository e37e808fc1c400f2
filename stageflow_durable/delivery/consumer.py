"""A worker that outlives its broker, and a parent that tells the others when one of its children was killed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from celery import bootsteps, signals
from celery.exceptions import WorkerLostError
from celery.worker.consumer import Consumer

from stageflow_durable.delivery.dropped import dropped, said_of
from stageflow_durable.delivery.intake import OURS, lost_by, named
from stageflow_durable.delivery.spawned import Application
from stageflow_durable.errors import StageflowError

log = logging.getLogger("stageflow.worker")

LOOK_SECONDS = 0.2
"""How often the parent looks whether a child is gone."""

TELL_AGAIN_SECONDS = 10.0
"""How long the parent waits, after the database did not answer, before it tells of a lost child again."""


class SturdyConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which survives the loss of a Redis broker while messages are unacknowledged, and errors.

    Celery 5.7.0 ends with ``AttributeError: 'NoneType' object has no attribute 'hostname'`` there: closing the lost
    connection asks it for its parameters once more, and so does acknowledging a message that came over it. What either
    was to release is gone with the connection; the broker delivers the message again, and the rows drop it.
    It ends as well over whatever else is raised in its event loop, and what it had taken then ends the next worker.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read: Any = self.loop
        self.loop: Any = self._read_on

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Go on to reconnecting, whatever closing the lost connection raises."""
        try:
            super().on_connection_error_after_connected(exc)
        except AttributeError as error:
            log.warning("closing the lost broker connection failed (%s); reconnecting", error)
        # Gossip and the like still close channels of theirs and ask it which errors to pass over; without it each of
        # them ends in a traceback.
        self.connection: Any = _Lost(self)

    def call_soon_ack(self, p: Callable[..., object], *args: Any, **kwargs: Any) -> Any:
        """Acknowledge or reject; for a message whose connection was lost meanwhile there is nobody to tell."""
        return super().call_soon_ack(_unless_gone(p), *args, **kwargs)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Drop a message that cannot be decoded, in a line."""
        dropped.add(named(message), f"it cannot be decoded: {said_of(exc)}")
        message.ack_log_error(log, self.connection_errors)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Drop what is no task, in a line."""
        dropped.add(named(message), "it is for no task")
        message.reject_log_error(log, self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=None)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message that its task cannot be called with, in a line."""
        dropped.add(named(message), said_of(exc))
        message.reject_log_error(log, self.connection_errors)
        signals.task_rejected.send(sender=self, message=message, exc=exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Drop a message for a task that an engine's own application does not have, in a line. In an adopted one
        somebody may wait for its result.
        """
        if not isinstance(self.app, Application):
            super().on_unknown_task(body, message, exc)
            return
        dropped.add(named(message), "there is no such task here")
        message.reject_log_error(log, self.connection_errors)

    def _read_on(self, *args: Any) -> None:
        """Whatever an error in the loop comes from, the pool and its children live: go on over a new connection. What
        had been taken for us is not put back, lest it does the same again: the rows know what was not begun.
        """
        lost = lost_by(self)
        try:
            self._read(*args)
        except (*lost, WorkerLostError, MemoryError):
            raise
        except Exception as error:
            log.exception("an error in the worker's event loop; it goes on over a new connection")
            forget_ours(self.task_consumer)
            raise ConnectionResetError(f"an error in the event loop: {said_of(error)}") from error


def forget_ours(task_consumer: Any) -> None:
    """Let go of the messages of ours that are unacknowledged."""
    qos: Any = getattr(getattr(task_consumer, "channel", None), "qos", None)
    for tag, message in list(getattr(qos, "_delivered", {}).items()):
        headers = getattr(message, "headers", None)
        if isinstance(headers, dict) and headers.get("task") in OURS:
            with contextlib.suppress(Exception):  # the broker is away as well; then nobody puts them back either
                qos.ack(tag)


class _Lost:
    """In the place of a connection that is lost: false, and knows the errors that its end may raise."""

    def __init__(self, consumer: Any) -> None:
        self.connection_errors = consumer.connection_errors
        self.channel_errors = consumer.channel_errors

    def __bool__(self) -> bool:
        return False


def _unless_gone(tell: Callable[..., object]) -> Callable[..., None]:
    def told(*args: Any, **kwargs: Any) -> None:
        try:
            tell(*args, **kwargs)
        except AttributeError as error:
            log.info("a task outlived the connection that its message came over (%s)", error)
            return
        # kombu logs the failure and goes on, with the message's place in the prefetch window taken for ever: a worker
        # whose window is full of such places waits on a connection that it never looks at again.
        if not getattr(getattr(tell, "__self__", None), "acknowledged", True):
            raise ConnectionResetError("a message could not be acknowledged; it comes again over a new connection")

    return told


def has_children(pool: Any) -> bool:
    """Whether a pool's tasks run in processes of their own; in the others they run in the worker's."""
    return hasattr(getattr(pool, "_pool", None), "_pool")  # nothing public tells


def _children(pool: Any) -> list[Any]:
    found: list[Any] = pool._pool._pool  # noqa: SLF001  # nothing public lists them
    return found


class ChildWatch(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Looks after the pool's children: one that is gone gives up its work at once, not when its lease runs out.

    Runs in the parent's event loop, on connections that are closed again before the next child is forked.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    lost: Callable[[int], None] | None = None

    def __init__(self, consumer: Any, **_options: Any) -> None:
        self._seen: set[int] = set()
        self._untold: dict[int, float] = {}
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Begin to look; called again after each reconnect."""
        if consumer.timer is not None and has_children(consumer.pool):
            self._note_each(consumer.pool)
            self._timer = consumer.timer.call_repeatedly(LOOK_SECONDS, self._look, (consumer.pool,))

    def _note_each(self, pool: Any) -> None:
        """Note the children that are there, and each that is made from now on: one may begin and die between two
        looks, and then its work would lie until its lease runs out.
        """
        self._seen |= {process.pid for process in _children(pool)}
        make = pool._pool._create_worker_process  # noqa: SLF001  # nothing public tells of a new one
        if getattr(make, "watched_by", None) is self:
            return

        def noted(number: int) -> Any:
            process = make(number)
            self._seen.add(process.pid)
            return process

        noted.watched_by = self  # type: ignore[attr-defined]  # a mark of ours: this is called after each reconnect
        pool._pool._create_worker_process = noted  # noqa: SLF001  # as above

    def stop(self, consumer: Any) -> None:
        """Cease."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, pool: Any) -> None:
        # Celery misses some ends, most often of a child that replaced another, and looks by itself only every 5 s.
        if not all(process.is_alive() for process in _children(pool)):
            pool.maintain_pool()
        children = {process.pid for process in _children(pool)}
        self._untold |= dict.fromkeys(self._seen - children, 0.0)
        self._seen = children
        # Until it is told: undos may wait for the end of a child that nobody but its parent has seen.
        for pid in [pid for pid, due in self._untold.items() if due <= monotonic()]:
            self._report(pid)

    def _report(self, pid: int) -> None:
        told_before = bool(self._untold[pid])
        try:
            if self.lost is not None:
                type(self).lost(pid)  # type: ignore[misc]  # a plain function kept on the class, not a method
            del self._untold[pid]
        except StageflowError as error:
            self._untold[pid] = monotonic() + TELL_AGAIN_SECONDS
            if not told_before:
                log.warning("child %d is gone, and nobody can be told: %s; tried again", pid, error)


_BOOT = "STAGEFLOW_INTERNAL_BOOT"
_own = os.urandom(6).hex()


def begin_boot(**_signal: object) -> None:
    """A worker starts: an id of its own for it and all its children, which inherit it by fork and by spawn alike."""
    os.environ[_BOOT] = os.urandom(6).hex()


def boot_id() -> str:
    """The id that a worker shares with its children; elsewhere this process's own."""
    return os.environ.get(_BOOT, _own)
