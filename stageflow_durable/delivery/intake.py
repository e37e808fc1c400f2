"""What a worker's parent takes from the broker: looked at before it is used, and dropped for good where that fails.

A message that cannot be read and is put back comes again, to be taken first, for as long as there are workers. Three
places meet one: reading it (:meth:`Intake.read`), handing it out (:meth:`Intake.deliver`), and taking it as a task
(:meth:`Intake.taking`). What else is raised on the way is no message's fault, and goes on to whom it concerns.
"""

from __future__ import annotations

import bz2
import logging
import lzma
import zlib
from collections.abc import Callable
from queue import Empty
from typing import Any

from celery import bootsteps
from kombu import compression
from kombu.transport import virtual

from stageflow_durable.delivery import shapes
from stageflow_durable.delivery.configure import ADVANCE, SWEEP
from stageflow_durable.delivery.dropped import dropped, said_of

log = logging.getLogger("stageflow.worker")

OURS = (ADVANCE, SWEEP)
RAW_BYTES = 4 * shapes.EXPANDED_BYTES


_VIRTUAL: Any = virtual.Transport  # kombu has no types
_compression: Any = compression


class Unreadable(Exception):
    """A message that its own content keeps from being used."""


class Intake(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Stands between the broker and Celery's parent process."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_options: Any) -> None:
        self.queue: str | None = None
        self._popped = self._delivering = False
        bound_what_expands()
        usual = consumer.create_task_handler
        consumer.create_task_handler = lambda *args, **kwargs: self.taking(consumer, usual(*args, **kwargs))

    def start(self, consumer: Any) -> None:
        """Begin; called again after each reconnect, with another channel."""
        channel = consumer.task_consumer.channel
        transport: Any = getattr(channel, "connection", None)
        if not isinstance(transport, _VIRTUAL):
            return  # RabbitMQ's own driver reads; what it hands out is looked at when it is taken
        transport.stageflow_intake = self
        channel.Message = _checked(channel.Message)
        self._look_at_what_is_delivered(transport, consumer)
        if hasattr(channel, "_brpop_read") and hasattr(transport.cycle, "on_readable"):
            self._look_at_what_is_read(transport.cycle, channel, lost_by(consumer))

    def _look_at_what_is_delivered(self, transport: Any, consumer: Any) -> None:
        usual, lost = transport._deliver, lost_by(consumer)  # noqa: SLF001  # where every virtual transport hands out

        def deliver(raw: Any, queue: str) -> object:
            try:
                return self.deliver(usual, raw, queue)
            except lost:
                raise
            except Exception as error:
                if consumer.task_consumer.consuming_from(queue):
                    raise
                # A command or an event: nobody acknowledges those, and nothing depends on them.
                dropped.add(f"queue {queue}", said_of(error))
                return None

        transport._deliver = deliver  # noqa: SLF001  # as above

    def _look_at_what_is_read(self, cycle: Any, channel: Any, lost: tuple[type[BaseException], ...]) -> None:
        usual, parse = cycle.on_readable, channel.client.parse_response

        def parse_response(connection: Any, command: str, **options: Any) -> Any:
            answer = parse(connection, command, **options)
            if command == "BRPOP" and answer:
                self._popped = True
                if len(answer[1]) > RAW_BYTES:
                    dropped.add(str(answer[0]), f"{len(answer[1])} bytes")
                    return None
            return answer

        channel.client.parse_response = parse_response
        cycle.on_readable = lambda fileno: self.read(usual, fileno, lost)

    def read(self, usual: Callable[[int], object], fileno: int, lost: tuple[type[BaseException], ...]) -> object:
        """Let kombu read, parse and hand out what has come. Between the pop and the handing out there is nothing but
        the message that could raise.
        """
        self._popped = self._delivering = False
        try:
            return usual(fileno)
        except Exception as error:
            if isinstance(error, (Empty, *lost)) or self._delivering or not self._popped:
                raise
            dropped.add("from the broker", f"it cannot be read: {said_of(error)}")
            raise Empty from error

    def deliver(self, usual: Callable[[Any, str], object], raw: Any, queue: str) -> object:
        """Let kombu hand out a message that it can hand out."""
        self._delivering = True
        why = shapes.envelope(raw)
        if why is not None:
            dropped.add(f"queue {queue}", why)
            return None
        self.queue = queue
        try:
            return usual(raw, queue)
        except Unreadable as error:
            dropped.add(f"queue {queue}", str(error))
            return None
        finally:
            self.queue = None

    def taking(self, consumer: Any, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """What takes a message as a task. One that cannot be taken is refused; was it one of ours, the sweep publishes
        it again.
        """
        lost = lost_by(consumer)

        def take_or_refuse(message: Any) -> None:
            slots = _free_slots(consumer)
            try:
                why = _misfit(message, looked_at=self.queue is not None)
                if why is None:
                    take(message)
                    return
            except lost:
                raise
            except Exception as error:  # whatever it is raised by: the next message has nothing to do with it
                log.warning("a message could not be taken", exc_info=error)
                why = f"it could not be taken: {said_of(error)}"
                _free_again(consumer, slots)
            dropped.add(named(message), why)
            if not message.acknowledged:
                message.reject_log_error(log, consumer.connection_errors)

        return take_or_refuse


def _checked(usual: Any) -> Any:
    """Kombu's messages; one whose body cannot be decoded says so in a way that nothing else does."""

    class Message(usual):  # type: ignore[misc]  # kombu has no types
        def __init__(self, payload: Any, channel: Any = None, **given: Any) -> None:
            try:
                super().__init__(payload, channel=channel, **given)
            except Exception as error:
                raise Unreadable(f"it cannot be decoded: {said_of(error)}") from error

    return Message


def _misfit(message: Any, *, looked_at: bool) -> str | None:
    headers = message.headers
    why = None if looked_at else shapes.described(headers)
    if why is None and isinstance(headers, dict) and "task" not in headers:  # Celery's first protocol: all in the body
        payload = _read(message)
        why = shapes.described(payload) if isinstance(payload, dict) else None
    if why is None and shapes.may_be_deep(message.body) and shapes.is_deeper([_read(message)], shapes.DEPTH):
        return "its body is nested too deeply"
    return why


def _read(message: Any) -> Any:
    """A message's body; None where it cannot be read, which Celery finds out by itself, and refuses."""
    try:
        return message.payload
    except Exception:  # noqa: BLE001  # as above
        return None


def named(message: Any) -> str:
    """A message, by what it says of itself."""
    headers = message.headers if isinstance(message.headers, dict) else {}
    return f"{headers.get('task')} {headers.get('id')}"


def lost_by(consumer: Any) -> tuple[type[BaseException], ...]:
    """What says that the connection is lost, or that the broker refuses. kombu counts every KeyError among them."""
    kinds = (*consumer.connection_errors, *consumer.channel_errors)
    return tuple(kind for kind in kinds if not issubclass(kind, LookupError | ValueError))


def _free_slots(consumer: Any) -> Any:
    return getattr(getattr(consumer.controller, "semaphore", None), "value", None)


def _free_again(consumer: Any, slots: int | None) -> None:
    """Give back the place in the pool that was taken for a message that never came there."""
    semaphore = getattr(consumer.controller, "semaphore", None)
    if slots is not None and semaphore is not None and semaphore.value < slots:
        semaphore.release()


# --- what expands -----------------------------------------------------------------------------------------------------


def bound_what_expands() -> None:
    """Let no compressed message take more memory than :data:`shapes.EXPANDED_BYTES`: kombu expands it where it
    arrives, in the parent.
    """
    for name, start in (
        ("gzip", zlib.decompressobj),
        ("bzip2", bz2.BZ2Decompressor),
        ("lzma", lzma.LZMADecompressor),
        ("zstd", _zstd),
        ("brotli", _Brotli),
    ):
        try:
            encoder, kind = _compression.get_encoder(name)
        except KeyError:
            continue
        _compression.register(encoder, _bounded(start), kind)


def _zstd() -> Any:
    return _compression.zstd.ZstdDecompressor()  # of the module that kombu has found


class _Brotli:
    """Brotli's reader with a bound. Older releases have none themselves: fed little at a time, they expand no more than
    a block or two (16 MiB each) beyond it.
    """

    _STEP = 16

    def __init__(self) -> None:
        self._reader: Any = _compression.brotli.Decompressor()

    def decompress(self, body: bytes, most: int) -> bytes:
        """The expanded body; when it is longer than ``most``, some more of it."""
        parts, length = [], 0
        for start in range(0, len(body), self._STEP):
            parts.append(self._reader.process(body[start : start + self._STEP]))
            length += len(parts[-1])
            if length >= most:
                break
        return b"".join(parts)

    @property
    def eof(self) -> bool:
        """Whether the body was whole."""
        return bool(self._reader.is_finished())


def _bounded(start: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def expand(body: bytes) -> bytes:
        reader = start()
        expanded: bytes = reader.decompress(body, shapes.EXPANDED_BYTES + 1)
        if len(expanded) > shapes.EXPANDED_BYTES:
            raise Unreadable(f"it expands to more than {shapes.EXPANDED_BYTES} bytes")
        if not reader.eof:
            raise Unreadable("its compressed body is not whole")
        return expanded

    return expand
