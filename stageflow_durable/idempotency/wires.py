"""Redis connections that are kept for what comes with every message: one write, one read, and nothing around them.

A client of redis-py looks whether its connection still is one before each command, and takes it from a pool and back.
Where a command comes with every message that costs as much as the command.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from redis import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.masking import masked
from stageflow_durable.settings.claims import for_redis_py
from stageflow_durable.settings.parsing import safe_url

Command: TypeAlias = tuple[str | int | float, ...]


class Wires:
    """Connections of this process, as many as there are threads that ask at the same time.

    Safe to make before a fork. Commands must do no harm when they come twice: one that was sent over a connection which
    turned out to be lost is sent again over a new one.

    :param connect: makes a connection of redis-py's, with timeouts.
    :param most: connections at once, or None: any number.
    :param patience_seconds: how long who finds all in use waits for one.
    """

    def __init__(self, connect: Callable[[], Any], most: int | None = None, patience_seconds: float = 0.0) -> None:
        self._connect = connect
        self._most = most
        self._patience = patience_seconds
        self._renew()

    def _renew(self) -> None:
        self._kept: list[Any] = []
        self._free = None if self._most is None else threading.BoundedSemaphore(self._most)
        self._pid = os.getpid()  # last: another thread that sees it takes what is there

    def ask(self, *command: str | int) -> Any:
        """What the server answers. Raises redis-py's errors."""
        return self._ask(lambda connection: _one(connection, command))

    def together(self, commands: Sequence[Command]) -> Any:
        """What the server answers to commands that it carries out together, or not at all (``MULTI``)."""
        return self._ask(lambda connection: _together(connection, commands))

    def _ask(self, ask: Callable[[Any], Any]) -> Any:
        if self._pid != os.getpid():  # the parent's connections are the parent's, and so are those who wait for one
            self._renew()
        free = self._free
        if free is None:
            return self._ask_in_turn(ask)
        if not free.acquire(timeout=self._patience):
            raise RedisConnectionError(f"no connection was free within {self._patience:g} s")
        try:
            return self._ask_in_turn(ask)
        finally:
            free.release()

    def _ask_in_turn(self, ask: Callable[[Any], Any]) -> Any:
        kept = self._take()
        if kept is not None:
            try:
                return self._over(kept, ask)
            except RedisTimeout:
                raise  # who does not answer in time will not the second time
            except RedisConnectionError:
                pass  # it had gone stale
        return self._over(self._connect(), ask)

    def _over(self, connection: Any, ask: Callable[[Any], Any]) -> Any:
        try:
            answer = ask(connection)
        except ReadOnlyError:
            connection.disconnect()  # a primary no longer: its name may lead to another by now
            raise
        except ResponseError:
            self._kept.append(connection)  # a refusal is an answer
            raise
        except BaseException:
            connection.disconnect()  # an answer that was not read is not the next one's
            raise
        self._kept.append(connection)
        return answer

    def _take(self) -> Any:
        try:
            return self._kept.pop()
        except IndexError:
            return None

    def close(self) -> None:
        """Close this process's connections; the next command opens a new one."""
        while self._pid == os.getpid() and (connection := self._take()) is not None:
            connection.disconnect()


def packed(command: Command) -> bytes:
    """A command as it is sent (Redis' protocol, RESP). redis-py's own way there weighs each word first, for it may be
    of any type and length, and takes a multiple of the time.
    """
    words = [str(word).encode() for word in command]
    parts = [part for word in words for part in (b"$%d\r\n" % len(word), word, b"\r\n")]
    return b"".join([b"*%d\r\n" % len(words), *parts])


_MULTI, _EXEC = packed(("MULTI",)), packed(("EXEC",))


def _one(connection: Any, command: Command) -> Any:
    connection.send_packed_command([packed(command)])
    return connection.read_response()


def _together(connection: Any, commands: Sequence[Command]) -> Any:
    connection.send_packed_command([b"".join([_MULTI, *map(packed, commands), _EXEC])])
    told = [_answer(connection) for _ in range(len(commands) + 2)]  # "OK", "QUEUED" for each, what came of them
    answers = told[-1]
    refusals = [answer for answer in (*told, *(answers if isinstance(answers, list) else ())) if _refuses(answer)]
    if refusals:
        raise refusals[0]  # the one that led to the others
    return answers


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as refusal:
        return refusal


def _refuses(answer: Any) -> bool:
    return isinstance(answer, ResponseError)


_OF_POOLS = frozenset({"timeout"})
"""What a URL may say for a pool that blocks, and no connection takes."""


def connector(pool: Any, bounds: Mapping[str, float] = MappingProxyType({})) -> Callable[[], Any]:
    """Makes connections as this pool of redis-py's would, which do not count among its own; ``bounds``: timeouts where
    it has none.
    """
    given = {name: value for name, value in pool.connection_kwargs.items() if name not in _OF_POOLS}
    lacking = {name: value for name, value in bounds.items() if given.get(name) is None}
    return lambda: pool.connection_class(**{**given, **lacking})


def keepalive(url: str) -> dict[str, Any]:
    """What makes a half-open connection show; redis-py refuses it for a local socket, which needs none."""
    return {} if url.startswith("unix:") else {"socket_keepalive": True}


def wires_to(url: str, timeout_seconds: float, most: int | None = None) -> Wires:
    """To a server; ``timeout_seconds`` bounds each connecting, each answer, and the wait for one of ``most``
    connections. Raises ConfigurationError where redis-py does not take the URL.
    """
    bounds = {"socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds}
    pool: Any = pool_of(ConnectionPool, url, **bounds)
    return Wires(connector(pool), most, timeout_seconds)


def pool_of(kind: Any, url: str, **options: Any) -> Any:
    """A pool of redis-py's, of that kind, to a URL that kombu takes as well. Raises ConfigurationError where redis-py
    does not take it: it would say so at each command only, which looks like a server that is away.
    """
    address = for_redis_py(url)
    try:
        pool = kind.from_url(address, **options, **keepalive(address), client_name="stageflow")
        connector(pool)()
    except (TypeError, ValueError, LookupError, RedisError) as error:
        said = masked(str(error)).splitlines()[0]
        raise ConfigurationError(f"STAGEFLOW_REDIS_URL: redis-py does not take {safe_url(url)}: {said}") from error
    return pool
