"""Messages from a template: Celery makes one of a kind, and what tells two of a kind apart is filled in.

Everything else of a message, its format included, is what the installed Celery and kombu make of it under this
application's settings, and is taken as it is. A template is believed only when a second message of Celery's own, with
quite different ids, comes out of it letter by letter.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import b2a_base64
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
from celery.app.amqp import AMQP
from celery.signals import after_task_publish, before_task_publish, task_sent
from kombu.utils.uuid import uuid

from stageflow_durable.delivery.configure import ADVANCE

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
