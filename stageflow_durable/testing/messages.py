"""A broker in memory: messages in the order of their due times, lost or doubled on request."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

from stageflow_durable.errors import BrokerUnavailable
from stageflow_durable.model.work import Nudge
from stageflow_durable.testing.clock import FakeClock
from stageflow_durable.testing.faults import Faults


def _once(_nudge: Nudge) -> int:
    return 1


class Messages:
    """The publisher of an :class:`~stageflow_durable.testing.InProcessEngine`.

    ``copies`` says how often a nudge is delivered: 1 as it should be, 0 lost, 2 doubled; set another function to
    lose or double some. ``away``: the broker does not answer. ``published`` counts the messages that were ever
    accepted.
    """

    def __init__(self, clock: FakeClock, faults: Faults | None = None) -> None:
        self._clock = clock
        self._faults = faults or Faults()
        self._waiting: list[tuple[float, int, Nudge]] = []
        self._numbers = itertools.count()
        self.copies: Callable[[Nudge], int] = _once
        self.away = False
        self.published = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Accept nudges, due in ``delay`` seconds. Raises BrokerUnavailable while the broker is away."""
        self._faults.reach("before", "publish")
        if self.away:
            raise BrokerUnavailable("the broker did not take the message: it is away")
        self._accept(nudges, delay)
        self._faults.reach("after", "publish")

    def _accept(self, nudges: tuple[Nudge, ...], delay: float) -> None:
        for nudge in nudges:
            self.published += 1
            for _copy in range(self.copies(nudge)):
                heapq.heappush(self._waiting, (self._clock.time() + delay, next(self._numbers), nudge))

    def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue; None while the broker is away."""
        return None if self.away else sum(nudge.queue == queue for _due, _number, nudge in self._waiting)

    def take(self) -> Nudge | None:
        """The next message that is due, or None."""
        if not self._waiting or self._waiting[0][0] > self._clock.time():
            return None
        return heapq.heappop(self._waiting)[2]

    def next_due(self) -> float | None:
        """When the next message is due, in seconds since the epoch, or None."""
        return self._waiting[0][0] if self._waiting else None

    def lose_all(self) -> int:
        """The broker loses everything; returns how many messages that were."""
        lost = len(self._waiting)
        self._waiting.clear()
        return lost

    def close(self) -> None:
        """Nothing is to be given back."""
