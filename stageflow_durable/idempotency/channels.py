"""Telling those who await runs, by way of Redis: one channel for each process that listens. A hint: the rows decide."""

from __future__ import annotations

import time
from typing import Any

from redis import ConnectionPool
from redis.exceptions import RedisError

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.idempotency.wires import Wires, connector, pool_of
from stageflow_durable.masking import masked

PREFIX = "stageflow:awaited:"
"""What the channels' names begin with; the listener's token follows."""

TIMEOUT_SECONDS = 0.25
"""How long connecting and each answer is waited for: who is not told looks by itself."""

PING_SECONDS = 10.0
"""After so long a silence the server is asked whether it is still there; after twice that it counts as lost."""

_TROUBLE = (RedisError, OSError)


class RedisChannels:
    """Channels of a server. Safe to make before a fork. Raises ConfigurationError where redis-py does not take the
    URL.
    """

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        bounds = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
        self._connect = connector(pool_of(ConnectionPool, url, **bounds))
        self._wires = Wires(self._connect)

    def tell(self, token: str, text: str) -> None:
        """Tell a listener. Raises StoreUnavailable within bounded time."""
        try:
            self._wires.ask("PUBLISH", PREFIX + token, text)
        except _TROUBLE as error:
            raise StoreUnavailable(f"Redis did not answer: {masked(str(error))}") from error

    def listen(self, token: str) -> RedisListening:
        """Listen for a token. Raises StoreUnavailable within bounded time."""
        try:
            connection = self._connect()
            try:
                connection.send_command("SUBSCRIBE", PREFIX + token)
                connection.read_response(push_request=True)  # as RESP 3 confirms it, if that is what is spoken
            except BaseException:
                connection.disconnect()
                raise
        except _TROUBLE as error:
            raise StoreUnavailable(f"Redis did not answer: {masked(str(error))}") from error
        return RedisListening(connection)

    def close(self) -> None:
        """Close this process's connections to tell over; the next use opens others."""
        self._wires.close()


class RedisListening:
    """One channel. Used by one thread."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard_at = self._asked_at = time.monotonic()

    def heard(self, seconds: float) -> list[str]:
        """What was said, waited for that long. Raises StoreUnavailable: the connection is lost, and what was said since
        with it.
        """
        found: list[str] = []
        try:
            wait = max(0.0, seconds)
            while self._connection.can_read(timeout=wait):
                found += _said(self._connection.read_response(push_request=True))
                self._heard_at, wait = time.monotonic(), 0.0
            self._keep_alive()
        except _TROUBLE as error:
            raise StoreUnavailable(f"the connection to Redis was lost: {masked(str(error))}") from error
        return found

    def _keep_alive(self) -> None:
        now = time.monotonic()
        if now - self._heard_at > 2 * PING_SECONDS:
            raise StoreUnavailable("Redis says nothing any more")
        if now - max(self._heard_at, self._asked_at) > PING_SECONDS:
            self._asked_at = now
            self._connection.send_command("PING", check_health=False)

    def close(self) -> None:
        """Close the connection."""
        self._connection.disconnect()


def _said(answer: Any) -> list[str]:
    """The text of a message; nothing of what else comes over such a connection."""
    if not isinstance(answer, list) or len(answer) < 3 or answer[0] not in (b"message", "message"):
        return []
    text = answer[2]
    return [text.decode("ascii", "replace") if isinstance(text, bytes) else str(text)]
