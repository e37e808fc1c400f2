"""Messages in a Redis broker that are due much later, for ``doctor``: some are looked at, none is taken."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MOST = 100
"""Messages of each queue, and of those that workers hold, that are looked at."""


@dataclass(frozen=True, slots=True)
class FarMessages:
    """``looked``: how many were looked at; ``far``: how many of them are due later; ``furthest``: the last, in seconds
    from now.
    """

    looked: int
    far: int
    furthest: float


def far_messages(app: Any, queues: Sequence[str], *, now: float, later_than: float, timeout: float) -> dict[str, Any]:
    """By queue; what workers hold and have not acknowledged counts as of the queue that it came from. ``later_than``:
    seconds from now. Raises what kombu and redis-py raise when the broker does not answer.
    """
    bounds = {"socket_timeout": timeout, "socket_connect_timeout": timeout, "max_retries": 1}
    with app.connection_for_write(connect_timeout=timeout, transport_options=bounds) as connection:
        connection.ensure_connection(max_retries=1, timeout=timeout)
        channel = connection.default_channel
        client = channel.client
        seen = {queue: [_due(one, now) for one in _waiting(channel, queue)] for queue in queues}
        _cursor, held = client.hscan(channel.unacked_key, count=MOST)
        for message, queue in _held(held.values()):
            seen.setdefault(queue, []).append(_due(message, now))
    return {queue: _summed(due, later_than) for queue, due in seen.items()}


def _waiting(channel: Any, queue: str) -> Iterator[Any]:
    for priority in channel.priority_steps:
        key = channel._q_for_pri(queue, priority)  # noqa: SLF001  # kombu has no other name for the list of a priority
        yield from map(_read, channel.client.lrange(key, -MOST, -1))


def _held(values: Iterable[Any]) -> Iterator[tuple[Any, str]]:
    for value in values:
        read = _read(value)
        if isinstance(read, list) and len(read) == 3:
            yield read[0], str(read[2])


def _read(text: Any) -> Any:
    """What stands in the broker; None where that is no message: whoever reaches it may have put it there."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def _due(message: Any, now: float) -> float:
    """In how many seconds a message is due; 0 where it does not say, or says what cannot be read."""
    headers = message.get("headers") if isinstance(message, dict) else None
    eta = headers.get("eta") if isinstance(headers, dict) else None
    try:
        return datetime.fromisoformat(eta).timestamp() - now if isinstance(eta, str) else 0.0
    except (ValueError, OverflowError):
        return 0.0


def _summed(due: Sequence[float], later_than: float) -> FarMessages:
    far = [seconds for seconds in due if seconds > later_than]
    return FarMessages(len(due), len(far), max(far, default=0.0))
