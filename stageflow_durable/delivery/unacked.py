"""Noting and acknowledging messages in one round trip, and nothing around it.

kombu keeps a list of what is unacknowledged in Redis. To add a message to it, and to take it off, it makes a client of
redis-py's and a pipeline each time, and throws both away: nearly half of the CPU that the worker's parent spends on a
message. What is written stays kombu's: its functions run as they are, on a pipeline that knows the four commands and
sends them over a connection that is kept. It is believed only where redis-py's own, given the same, would have sent
the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any, Self

from celery import bootsteps

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


class QuickAcks(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Does so for the channel that tasks come over. ``wanted``: whether the settings say so."""

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

    channel.qos.pipe_or_acquire = acquire
    return True


def _fits(channel: Any) -> bool:
    from kombu.transport import redis  # for another broker its driver may be missing

    if type(channel) is not redis.Channel or type(channel.qos) is not redis.QoS:
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
