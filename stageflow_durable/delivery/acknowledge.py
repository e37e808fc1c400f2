"""Our messages are noted in the worker alone; those of other tasks in Redis, in one round trip and nothing around it.

kombu keeps a list of what is unacknowledged in Redis, from which a message comes back once its visibility timeout is
over. For ours that is an hour late and of no use: the rows know what was not begun, and a sweep publishes it again
within seconds. So they take kombu's way for brokers without such a list, which counts them for the prefetch window and
puts them back when a worker stops (ADR 0024).

For other messages kombu makes a client of redis-py's and a pipeline, each time, and throws both away. What is written
stays kombu's: its functions run as they are, on a pipeline that knows the four commands and sends them over a
connection that is kept. It is believed only where redis-py's own, given the same, would have sent the same (ADR 0020).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Self

from celery import bootsteps
from kombu.transport import virtual
from redis.exceptions import RedisError

from stageflow_durable.delivery.configure import ADVANCE, SWEEP
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.idempotency.wires import Command, Wires, connector

log = logging.getLogger("stageflow.worker")

_SAMPLE: Any = SimpleNamespace(delivery_info={"exchange": "an exchange", "routing_key": "a queue"}, _raw={"body": "é"})


class Together:
    """In the place of a pipeline: commands that the server carries out together. ``prefix``: of each key."""

    __slots__ = ("_commands", "_prefix", "_send")

    def __init__(self, prefix: str, send: Callable[[Sequence[Command]], object]) -> None:
        self._prefix = prefix
        self._send = send
        self._commands: list[Command] = []

    def zadd(self, name: str, mapping: Mapping[str, float]) -> Self:
        """Add one member."""
        ((member, score),) = mapping.items()
        return self._add("ZADD", name, score, member)

    def zrem(self, name: str, member: str) -> Self:
        """Remove one member."""
        return self._add("ZREM", name, member)

    def hset(self, name: str, key: str, value: str) -> Self:
        """Set one field."""
        return self._add("HSET", name, key, value)

    def hdel(self, name: str, key: str) -> Self:
        """Remove one field."""
        return self._add("HDEL", name, key)

    def execute(self) -> None:
        """Send them; nobody asks for the answers."""
        self._send(self._commands)

    def _add(self, command: str, name: str, *rest: str | float) -> Self:
        self._commands.append((command, self._prefix + name, *rest))
        return self


class _Books:
    """In the place of a channel's own books of what is unacknowledged: a message of ours goes the way of their base
    class, which writes nothing.
    """

    _base: Any = virtual.QoS  # kombu has no types

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._qos = channel.qos
        self._usual = type(channel.qos)
        self._ours: set[str] = set()

    def append(self, message: Any, delivery_tag: str) -> None:
        """A message was handed out."""
        if _is_ours(message):
            self._ours.add(delivery_tag)
            self._base.append(self._qos, message, delivery_tag)
        else:
            self._usual.append(self._qos, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """It is done with."""
        ours = delivery_tag in self._ours
        self._ours.discard(delivery_tag)
        (self._base if ours else self._usual).ack(self._qos, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """It is not to be done, or by somebody else (``requeue``)."""
        if delivery_tag not in self._ours:
            self._usual.reject(self._qos, delivery_tag, requeue)
            return
        if requeue:
            self._put_back([self._qos.get(delivery_tag)], leftmost=True)
        self.ack(delivery_tag)

    def restore_unacked(self, *given: Any) -> Any:
        """The channel is closed: what it handed out goes back to its queue."""
        delivered = self._qos._delivered  # noqa: SLF001  # as kombu's own function does
        # The oldest last, to be taken first: workers take from that end.
        self._put_back([delivered.pop(tag) for tag in reversed(delivered.copy()) if tag in self._ours])
        self._ours.clear()
        return self._usual.restore_unacked(self._qos, *given)

    def _put_back(self, messages: Sequence[Any], *, leftmost: bool = False) -> None:
        """As kombu does with those that are in its list; ``leftmost``: behind all others."""
        if not messages:
            return
        put = self._channel._do_restore_message  # noqa: SLF001  # what kombu's own functions put back with
        try:
            with self._channel.conn_or_acquire() as client, client.pipeline() as pipe:
                for message in messages:
                    place = message.delivery_info
                    put(message._raw, place["exchange"], place["routing_key"], pipe, leftmost)  # noqa: SLF001  # as above
                pipe.execute()
        except (RedisError, OSError) as error:
            log.warning("%d message(s) could not be put back (%s); a sweep publishes them again", len(messages), error)


def _is_ours(message: Any) -> bool:
    headers = getattr(message, "headers", None)  # whatever came over the broker
    return isinstance(headers, Mapping) and headers.get("task") in (ADVANCE, SWEEP)


class QuickAcks(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Installs quick acknowledgements on the channel that tasks come over. ``wanted``: whether the settings say so."""

    requires = ("celery.worker.consumer.tasks:Tasks",)
    wanted: Callable[[], bool] | None = None

    def __init__(self, consumer: Any, **_options: Any) -> None:
        """Nothing to prepare."""

    def start(self, consumer: Any) -> None:
        """Begin; called again after each reconnect, with another channel."""
        try:
            wanted = self.wanted is not None and self.wanted()
        except ConfigurationError:
            return  # each child says so
        if wanted:
            quicken(consumer.task_consumer.channel)


def quicken(channel: Any) -> bool:
    """Do so for a channel of kombu's. False: it is left as it is, being another broker's, or another version's."""
    if not _fits(channel):
        return False
    # With the application's own timeouts: what else it carries may not be cut off earlier than before.
    wires, usual = Wires(connector(channel.pool)), channel.qos.pipe_or_acquire

    def acquire(pipe: Any = None, client: Any = None) -> AbstractContextManager[Any]:
        given = pipe is not None or client is not None  # part of something larger
        return usual(pipe, client) if given else nullcontext(Together(channel.global_keyprefix, wires.together))

    books = _Books(channel)
    channel.qos.pipe_or_acquire = acquire
    for name in ("append", "ack", "reject", "restore_unacked"):
        setattr(channel.qos, name, getattr(books, name))
    return True


def _fits(channel: Any) -> bool:
    from kombu.transport import redis  # for another broker its driver may be missing

    if type(channel) is not redis.Channel or type(channel.qos) is not redis.QoS:
        return False
    if not hasattr(channel, "_do_restore_message"):
        return False
    try:
        return _ours(channel) == _theirs(channel)
    except Exception:  # what another version does is its own; its own way of writing knows it
        log.debug("kombu acknowledges by itself", exc_info=True)
        return False


def _ours(channel: Any) -> list[Command]:
    written: list[Command] = []
    _write(channel, lambda: Together(channel.global_keyprefix, written.extend))
    return _comparable(written)


def _theirs(channel: Any) -> list[Command]:
    written: list[Any] = []

    def pipeline() -> Any:
        made = channel._create_client().pipeline()  # noqa: SLF001  # as kombu does at each message
        made.execute = lambda: written.extend(command for command, _options in made.command_stack)
        return made

    _write(channel, pipeline)
    return _comparable(written)


def _write(channel: Any, pipeline: Callable[[], Any]) -> None:
    """Let kombu note a message, and acknowledge it, on that."""
    qos = type(channel.qos)(channel)
    qos.pipe_or_acquire = lambda *_given: nullcontext(pipeline())
    qos.append(_SAMPLE, "a tag")
    qos.ack("a tag")
    qos.restore_unacked_once()  # there is nothing to restore; else it would look again at the process's end


def _comparable(written: Sequence[Any]) -> list[Command]:
    """Without the time, which goes on between two samples."""
    return [tuple("a time" if isinstance(word, float) else word for word in command) for command in written]
