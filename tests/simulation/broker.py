"""A broker that loses, doubles and delays, and Celery's part in carrying a message: chains, retries, redelivery."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from stageflow_durable.errors import BrokerUnavailable
from stageflow_durable.model.work import Nudge

SEGMENT = 10
"""As in ``delivery.publish``."""


class Message(NamedTuple):
    """One message in the broker; ``tail``: the links of its chain after this one."""

    run: str
    strand: str
    gen: int
    mark: str
    queue: str
    due: float
    tail: tuple[Message, ...] = ()
    retries: int = 0
    redelivered: bool = False
    number: int = 0

    def __str__(self) -> str:
        again = f" retry {self.retries}" if self.retries else ""
        return f"{self.strand}@{self.gen} {self.mark}{again}{' again' if self.redelivered else ''}"


class Broker:
    """Messages in the order of their arrival."""

    def __init__(self, clock: Callable[[], float], in_place: int) -> None:
        self.waiting: list[Message] = []
        self.published: dict[str, int] = {}
        self.away_until = float("-inf")
        self._clock = clock
        self._in_place = in_place
        self._numbers = 0

    @property
    def away(self) -> bool:
        return self._clock() < self.away_until

    def put(self, message: Message) -> Message:
        self._numbers += 1
        numbered = message._replace(number=self._numbers)
        self.waiting.append(numbered)
        return numbered

    def accept(self, nudge: Nudge, delay: float) -> Message:
        """One nudge as its chain of links."""
        self.published[nudge.run_id] = self.published.get(nudge.run_id, 0) + 1
        count = min(SEGMENT, math.ceil(nudge.links / self._in_place))
        due = self._clock() + delay
        links = [
            Message(nudge.run_id, nudge.address, nudge.gen, f"{nudge.mark}.{number}", nudge.queue, due)
            for number in range(count)
        ]
        return self.put(links[0]._replace(tail=tuple(links[1:])))

    def due(self) -> list[Message]:
        if not self.waiting or self.away:
            return []
        now = self._clock()
        return [message for message in self.waiting if message.due <= now]

    def next_due(self) -> float | None:
        return min((message.due for message in self.waiting), default=None)


class Publisher:
    """The engine's port, in one process."""

    def __init__(self, broker: Broker, reach: Callable[[str, str], None], mishap: Callable[[Message], None]) -> None:
        self._broker = broker
        self._reach = reach
        self._mishap = mishap

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        self._reach("before", "publish")
        if self._broker.away:
            raise BrokerUnavailable("the broker is away")
        for nudge in nudges:
            self._mishap(self._broker.accept(nudge, delay))
        self._reach("after", "publish")

    def depth(self, queue: str) -> int | None:
        """Messages in the queue itself: what comes later, or again, is with a worker until then."""
        return None if self._broker.away else sum(message.queue == queue for message in self._broker.due())

    def close(self) -> None:
        """Nothing is open."""


class Gate:
    """Redis as the gate of messages: the first of equal ones passes."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}
        self.away_until = float("-inf")

    def claim(self, key: str, token: str, seconds: float) -> bool:
        now = self._clock()
        if now < self.away_until:
            return True
        holder, until = self._held.get(key, (token, float("-inf")))
        if until > now:
            return holder == token
        self._held[key] = token, now + seconds
        return True

    def flush(self) -> None:
        self._held.clear()


class Again(BaseException):
    """What Celery raises out of ``task.retry``."""

    def __init__(self, countdown: float) -> None:
        super().__init__()
        self.countdown = countdown


class Request:
    """What the task sees of its message."""

    callbacks = errbacks = chord = group = None

    def __init__(self, message: Message) -> None:
        self.id = str(message.number)
        self.chain: Any = message.tail or None
        self.retries = message.retries
        self.delivery_info = {"redelivered": message.redelivered, "routing_key": message.queue}


class Task:
    """What ``delivery.tasks.carry`` uses of Celery's task."""

    name = "stageflow.advance"

    def __init__(self, message: Message) -> None:
        self.request = Request(message)

    def retry(self, *, countdown: float, exc: BaseException | None = None) -> NoReturn:
        raise Again(countdown)


def due_at(message: Message, due: float, *, redelivered: bool | None = None) -> Message:
    """The message anew, due at another time."""
    return message._replace(due=due, redelivered=message.redelivered if redelivered is None else redelivered)
