"""Messages from a template, which is what runs on Redis by default: Celery makes one of a kind, and what tells two of a
kind apart is filled in.

Everything else of a message, its format included, is what the installed Celery and kombu make of it under this
application's settings, and is taken as it is. A template is believed only when a second message of Celery's own, with
quite different ids, comes out of it letter by letter.
"""

from __future__ import annotations

import json
import logging
import os
import re
from base64 import b64decode
from binascii import b2a_base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from json.encoder import encode_basestring_ascii as _quoted
from operator import itemgetter
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import celery.app.base
import celery.app.task
import kombu.messaging
import kombu.transport.redis
import kombu.transport.virtual.base
from celery import Celery
from celery._state import get_current_worker_task
from celery.app.amqp import AMQP
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import after_task_publish, before_task_publish, task_sent
from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid
from redis.exceptions import RedisError

from stageflow_durable.delivery.configure import ADVANCE
from stageflow_durable.delivery.signing import UNSIGNED, Signer
from stageflow_durable.idempotency.wires import Wires, connector
from stageflow_durable.model.work import Nudge

_TOLD = (before_task_publish, after_task_publish, task_sent)
_ELSEWHERE = ("task_always_eager", "task_routes", "task_send_sent_event", "task_inherit_parent_priority",
              "task_compression")  # fmt: skip
"""Settings under which Celery does more at each message than fill in ids."""


class Blanks(NamedTuple):  # a tuple: one is made of each message
    """What differs between two messages of one queue and priority. ``parent``: the task that sends it, or None."""

    run_id: str
    strand: str
    gen: int
    mark: str
    task: str
    root: str
    parent: str | None
    reply_to: str
    tag: str

    def arguments(self) -> tuple[str, str, int, str]:
        """The task's."""
        return self[:4]

    def argsrepr(self) -> str:
        """What logs and monitors show of them."""
        return f"({self.run_id!r}, {self.strand!r})"

    def inner(self) -> tuple[str, ...]:
        """Of the body, each as JSON text."""
        return _quoted(self.run_id), _quoted(self.strand), str(self.gen), _quoted(self.mark)

    def outer(self, body: str) -> tuple[str, ...]:
        """Of the whole message, each as JSON text."""
        parent = "null" if self.parent is None else _quoted(self.parent)
        ids = _quoted(self.task), _quoted(self.root), parent, _quoted(self.reply_to), _quoted(self.tag)
        return *ids, _quoted(self.argsrepr()), body


class Template:
    """The text of a message with blanks, and the list that it belongs to."""

    __slots__ = ("_body", "_text", "key")

    def __init__(self, key: str, text: str, made_of: Blanks) -> None:
        self.key = key
        body: str = json.loads(text)["body"]
        self._body = _Form(b64decode(body, validate=True).decode(), made_of.inner())
        self._text = _Form(text, made_of.outer(json.dumps(body)))

    def fill(self, blanks: Blanks) -> str:
        """One message."""
        body = b2a_base64(self._body.filled(blanks.inner()).encode(), newline=False).decode()
        return self._text.filled(blanks.outer(f'"{body}"'))


class _Form:
    """A text in pieces, every second of which is a blank."""

    __slots__ = ("_pick", "_pieces")

    def __init__(self, text: str, values: Sequence[str]) -> None:
        self._pieces = re.split(f"({'|'.join(map(re.escape, values))})", text)
        self._pick = itemgetter(*map(values.index, self._pieces[1::2]))

    def filled(self, values: Sequence[str]) -> str:
        pieces = self._pieces.copy()
        pieces[1::2] = self._pick(values)
        return "".join(pieces)


class Unlike(Exception):  # an answer between two functions, no error of ours
    """Messages of this application cannot be made from a template."""


def make(app: Celery, channel: Any, options: Mapping[str, Any]) -> Template:
    """A template for messages with these options; ``channel``: a Redis channel of kombu's that nobody else uses.

    Raises Unlike, and what the broker raises when it is away.
    """
    app.amqp.queues[options["queue"]](channel).declare()
    taken = _Taken()
    channel.conn_or_acquire = lambda *_client: nullcontext(taken)
    producer = app.amqp.Producer(channel, auto_declare=False)
    samples = [_sample(app, producer, taken, options, blanks) for blanks in (_letters(), _signs())]
    (key, text, first), (other_key, other_text, second) = samples
    template = Template(channel.global_keyprefix + key, text, first)
    if key != other_key or template.fill(second) != other_text:
        raise Unlike("two messages differ in more than their ids")
    return template


def _sample(
    app: Celery, producer: Any, taken: _Taken, options: Mapping[str, Any], blanks: Blanks
) -> tuple[str, str, Blanks]:
    # A task that sends passes its ids on; given, they are as good as any.
    given = {"task_id": blanks.task, "root_id": blanks.root, "parent_id": blanks.parent, "reply_to": blanks.reply_to}
    link = app.signature(ADVANCE, args=blanks.arguments(), immutable=True)
    link.apply_async(
        producer=producer, retry=False, declare=[], add_to_parent=False, argsrepr=blanks.argsrepr(), **given, **options
    )
    key, text = taken.only()
    tag = json.loads(text)["properties"]["delivery_tag"]
    return key, text, blanks._replace(tag=tag)


def _letters() -> Blanks:
    """Nothing that occurs anywhere else in a message."""
    return Blanks(uuid(), uuid(), 740_211_593_088_317, uuid(), uuid(), uuid(), uuid(), uuid(), "")


def _signs() -> Blanks:
    """Whatever JSON has to write in another way."""
    return Blanks("01RUN", "a'\"\\%é\n", 0, "1.0", uuid(), uuid(), uuid(), uuid(), "")


class _Taken:
    """In the place of a Redis client: takes what is pushed. Whatever else kombu would do at a message, it does not do
    here, so that such messages are not made from a template.
    """

    def __init__(self) -> None:
        self._pushed: list[tuple[str, str]] = []

    def lpush(self, key: str, text: str) -> None:
        """Take one message."""
        self._pushed.append((key, text))

    def only(self) -> tuple[str, str]:
        """What was pushed since the last call: one message, or Unlike."""
        pushed, self._pushed = self._pushed, []
        if len(pushed) != 1:
            raise Unlike(f"{len(pushed)} messages were pushed for one")
        return pushed[0]


def is_told() -> bool:
    """Whether somebody wants to be told of each message; signals may be connected at any time."""
    return any(signal.receivers for signal in _TOLD)


def sends_as_celery(app: Celery, connection: Any) -> bool:
    """Whether this application sends as Celery does by itself, over kombu's Redis transport: nothing is overridden,
    patched (as tracers do, to add headers of their own) or set that asks for more than ids at each message.
    """
    transport, conf = connection.transport, app.conf
    if type(transport) is not kombu.transport.redis.Transport or type(app.amqp) is not AMQP:
        return False
    if len(connection.alt) > 1:  # which of several brokers answers, kombu finds out
        return False
    if conf.task_protocol != 2 or any(conf[name] for name in _ELSEWHERE):  # the only one whose format is looked at here
        return False
    return all(_is_of(function, module) for function, module in _path_of_a_message(app, transport.Channel))


def _path_of_a_message(app: Celery, channel: type) -> Sequence[tuple[object, ModuleType]]:
    virtual, redis, messaging = kombu.transport.virtual.base, kombu.transport.redis, kombu.messaging
    return (
        (type(app.tasks.get(ADVANCE, app.Task())).apply_async, celery.app.task),
        (type(app).send_task, celery.app.base),
        (app.amqp.Producer.publish, messaging),
        (app.amqp.Producer._publish, messaging),  # noqa: SLF001  # only looked at
        (channel.basic_publish, virtual),  # type: ignore[attr-defined]  # kombu has no types
        (channel._put, redis),  # type: ignore[attr-defined]  # noqa: SLF001  # as above
    )


def _is_of(function: object, module: ModuleType) -> bool:
    return isinstance(function, FunctionType) and function.__globals__ is vars(module)


log = logging.getLogger("stageflow.publish")

# --- publishing them, where that is what Celery would have sent -------------------------------------------------------


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
