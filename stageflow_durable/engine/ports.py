"""What the engine needs from outside, as protocols."""

from __future__ import annotations

from typing import Protocol

from stageflow_durable.errors import BrokerUnavailable
from stageflow_durable.model.work import Nudge


class Publisher(Protocol):
    """Delivers nudges. Messages may be lost, doubled and late: rows and sweeps make up for it."""

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Send each nudge, due in ``delay`` seconds. Raises BrokerUnavailable in bounded time, PublishingFailed for
        whatever else keeps it from sending, and nothing else but what interrupts the caller.
        """

    def depth(self, queue: str) -> int | None:
        """How many messages wait in a queue, or None when the broker cannot say."""

    def close(self) -> None:
        """Give back connections; the next use opens others."""


class NoPublisher:
    """Publishes nothing: the rows are the outbox, and the workers' sweep reads them."""

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Leave them to the sweep. Raises BrokerUnavailable."""
        raise BrokerUnavailable("no broker is known here")

    def depth(self, queue: str) -> int | None:
        """Not known."""
        return None

    def close(self) -> None:
        """Nothing is open."""
