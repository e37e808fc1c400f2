"""The way to Redis or Valkey, spoken to in Lua scripts: the store's, and the nudge gate's.

One script is one operation: whole or not at all, by the server's clock. A script is called by its digest and sent in
full only where the server does not know it (after a restart or ``SCRIPT FLUSH``).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import Any, TypeAlias

from redis import BlockingConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.idempotency.script import Script
from stageflow_durable.idempotency.wires import pool_of, wires_to
from stageflow_durable.masking import masked

TIMEOUT_SECONDS = 1.0
"""How long one attempt to connect, or one answer, is waited for; a lost connection is tried once more."""

CONNECTIONS = 32
"""The most connections of one process; more threads than that take turns."""

Argument: TypeAlias = str | int


class Link(ABC):
    """A way to a server: runs scripts."""

    def run(self, script: Script, key: str, *arguments: Argument) -> Any:
        """The script's answer, as Redis gives it.

        :raises StoreUnavailable: there is none in bounded time, or it is a refusal (out of memory, read-only replica,
            password).
        """
        try:
            return self._run(script, key, *arguments)
        except RedisError as error:
            raise StoreUnavailable(f"Redis did not answer: {masked(str(error))}") from error

    def _run(self, script: Script, key: str, *arguments: Argument) -> Any:
        try:
            return self._ask("EVALSHA", script.digest, 1, key, *arguments)
        except NoScriptError:
            return self._ask("EVAL", script.text, 1, key, *arguments)

    @abstractmethod
    def _ask(self, *command: Argument) -> Any:
        """What the server answers. Raises redis-py's errors."""

    @abstractmethod
    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""


class RedisLink(Link):
    """By way of a client of this process, made at the first use and again after a fork; or of one that the application
    made.

    :param source: a URL, or a client: its own timeouts and retries hold then, so give it some.
    :param timeout_seconds: for a URL: bounds each connecting and each answer.
    """

    def __init__(self, source: str | Redis, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._source = source
        self._timeout = timeout_seconds
        self._made: tuple[int, Redis] | None = None

    def _ask(self, *command: Argument) -> Any:
        client: Any = self._client()  # whose methods redis-py gives no types
        return client.execute_command(*command)

    def close(self) -> None:
        """See :meth:`Link.close`. A client that the application made is left alone."""
        made, self._made = self._made, None
        if made is not None and made[0] == os.getpid():
            made[1].close()

    def _client(self) -> Redis:
        if not isinstance(self._source, str):
            return self._source
        if self._made is None or self._made[0] != os.getpid():
            self._made = (os.getpid(), self._connect(self._source))
        return self._made[1]

    def _connect(self, url: str) -> Redis:
        # One more try mends a connection that went stale in the pool; the scripts give the same answer when they ran
        # already.
        pool = pool_of(
            BlockingConnectionPool,
            url,
            max_connections=CONNECTIONS,
            timeout=self._timeout,
            socket_timeout=self._timeout,
            socket_connect_timeout=self._timeout,
            retry=Retry(NoBackoff(), 1),
        )
        return Redis.from_pool(pool)


class WiredLink(Link):
    """To a URL, over connections that are kept, past redis-py's client and its pool: those cost as much as the
    answer. ``most``: connections at once, or None: any number.
    """

    def __init__(self, url: str, timeout_seconds: float, most: int | None = None) -> None:
        self._wires = wires_to(url, timeout_seconds, most)

    def _ask(self, *command: Argument) -> Any:
        return self._wires.ask(*command)

    def close(self) -> None:
        """See :meth:`Link.close`."""
        self._wires.close()


def link_to(source: str | Redis, timeout_seconds: float, most: int | None = None) -> Link:
    """To a URL; or by way of a client that the application made."""
    return WiredLink(source, timeout_seconds, most) if isinstance(source, str) else RedisLink(source, timeout_seconds)
