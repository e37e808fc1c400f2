"""Connections below SQLAlchemy that the threads of a process share: few, however many threads there are.

A worker's threads, a web server's and an event loop's helpers all come here, each for one statement. Who came last gets
the connection that was used last, so that a process with one thread works over one connection, and those that nobody
needs any more are closed. Each is opened by SQLAlchemy's pool, detached from it, and closed with whatever holds it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Protocol, TypeVar, TypeVarTuple

from stageflow_durable.state.database import Database, Line
from stageflow_durable.state.postgres_protocol import RawConnection, Rows, ServerStatement
from stageflow_durable.state.trouble import POOL_SECONDS, is_full, none_free

# --- one connection ---------------------------------------------------------------------------------------------------


class OwnStatement(Protocol):
    """A statement, as it is written for the driver, and below it."""

    sql: str

    @property
    def prepared(self) -> ServerStatement:
        """For :class:`RawConnection`."""

    def values(self, given: Mapping[str, Any]) -> Any:
        """All parameters, as the driver takes them."""


def opened(database: Database) -> Any:
    """A connection of the driver's, autocommitting."""
    pooled: Any = database.engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    if not database.is_sqlite:  # there it is so already
        connection.autocommit = True
    return connection


class Own:
    """This process's ``connection``, used by one thread at a time; each statement is a transaction of its own.

    ``prepares``: whether statements on PostgreSQL are prepared and go below psycopg's cursors; never over a pooler.
    """

    def __init__(self, connection: Any, *, is_sqlite: bool, prepares: bool = False) -> None:
        self.connection = connection
        self.idle_since = 0.0
        """When it was given back last, by the monotonic clock."""
        self._pid = os.getpid()
        self._line = None if is_sqlite else Line(connection.fileno())
        self._prelude: str | None = None if is_sqlite else connection.prelude
        self.prepares = prepares and not is_sqlite and self._prelude is None

    @cached_property
    def wire(self) -> RawConnection:
        """The same connection, below psycopg's cursors."""
        return RawConnection(self.connection)

    def execute(self, statement: OwnStatement, given: Mapping[str, Any]) -> Any:
        """Run it; returns the driver's cursor."""
        if self._prelude is None:
            return self.connection.execute(statement.sql, statement.values(given))
        self.connection.execute(f"BEGIN ISOLATION LEVEL READ COMMITTED; {self._prelude}")
        cursor = self.connection.execute(statement.sql, statement.values(given))
        self.connection.execute("COMMIT")
        return cursor

    def rows(self, statement: OwnStatement, given: Mapping[str, Any]) -> Rows:
        """Run it; returns its rows."""
        if self.prepares:
            return self.wire.rows(statement.prepared, given)
        found: Rows = self.execute(statement, given).fetchall()
        return found

    def touched(self, statement: OwnStatement, given: Mapping[str, Any]) -> bool:
        """Run it; returns whether it touched a row."""
        if self.prepares:
            return self.wire.touched(statement.prepared, given) > 0
        return bool(self.execute(statement, given).rowcount > 0)

    @property
    def usable(self) -> bool:
        """Whether it is this process's, and its server has not closed it since it was used last."""
        return self._pid == os.getpid() and not (self._line and self._line.closed)

    def close(self, this_process: Callable[[], int] = os.getpid) -> None:
        """Close it. Idempotent."""
        if self._pid == this_process():  # a parent's connection is the parent's to close
            self.connection.close()

    def __del__(self) -> None:
        self.close()


# --- those of a process -----------------------------------------------------------------------------------------------


MOST = 10
"""Connections of a process at once; who finds all in use waits for its turn."""
KEPT = 5
"""Connections that stay open when nobody uses them."""
IDLE_SECONDS = 60.0
"""How long one of them stays so while others are used."""

T = TypeVar("T")
Given = TypeVarTuple("Given")


class Connections:
    """Connections of this process, each used by one thread at a time. Safe to make before a fork.

    ``prepares``: whether statements may be prepared; ``most``: connections at once; ``patience``: seconds until who
    waits for one gives up.
    """

    def __init__(
        self, database: Database, *, prepares: bool, most: int | None = None, patience: float | None = None
    ) -> None:
        self._database = database
        self._prepares = prepares
        self._most = MOST if most is None else most
        self._patience = POOL_SECONDS if patience is None else patience
        self._renew()

    def _renew(self) -> None:
        self._kept: list[Own] = []
        self._places = Places(self._most)
        self._pid = os.getpid()  # last: another thread that sees it takes what is there

    def use(self, do: Callable[[Own, *Given], T], *given: *Given) -> T:
        """Do something over a connection. Raises the driver's errors, and StoreUnavailable when none gets free."""
        if self._pid != os.getpid():  # the parent's connections are the parent's, and so are those who wait for one
            self._renew()
        kept = self._kept
        place = self._places.take(self._patience)
        if place is None:
            raise none_free(self._patience)
        try:
            connection = self._take(kept)
            try:
                answer = do(connection, *given)
            except BaseException:
                connection.close()  # an answer that was not read is not the next one's
                raise
            self._give(kept, connection)
            return answer
        finally:
            place.leave()

    def _take(self, kept: list[Own]) -> Own:
        return _usable(kept) or self._open(kept)

    def _open(self, kept: list[Own]) -> Own:
        until = monotonic() + self._patience
        while True:
            try:
                made: Any = opened(self._database)
                return Own(made, is_sqlite=self._database.is_sqlite, prepares=self._prepares)
            except Exception as error:
                # The server has none left: another thread may be done with one of ours meanwhile.
                if not is_full(error) or monotonic() > until:
                    raise
                if (found := _usable(kept)) is not None:
                    return found

    def _give(self, kept: list[Own], connection: Own) -> None:
        connection.idle_since = now = monotonic()
        if kept is not self._kept or len(kept) >= KEPT:
            connection.close()
            return
        kept.append(connection)
        if len(kept) > 1:
            _close_idle(kept, now)

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        kept, self._kept = self._kept, []
        if self._pid == os.getpid():
            for connection in kept:
                connection.close()


def _usable(kept: list[Own]) -> Own | None:
    while kept:
        try:
            connection = kept.pop()
        except IndexError:  # another thread was faster
            return None
        if connection.usable:
            return connection
        connection.close()
    return None


def _close_idle(kept: list[Own], now: float) -> None:
    """Close the one that nobody has used for longest, if that is long ago."""
    with suppress(IndexError):  # another thread was faster
        if kept[0].idle_since < now - IDLE_SECONDS:
            kept.pop(0).close()


# --- whose turn it is: places that threads take in the order in which they came ---------------------------------------


class Place:
    """One of the places; given back by :meth:`leave`, or when nobody holds it any more: a thread that was interrupted
    on its way (a time limit, a signal) takes none with it.
    """

    __slots__ = ("_of",)

    def __init__(self, of: Places) -> None:
        self._of: Places | None = of

    def leave(self) -> None:
        """Give it back. Idempotent."""
        of, self._of = self._of, None
        if of is not None:
            of.left()

    __del__ = leave


class Places:
    """``most`` places. Threads that would only compete for a lock may starve; these are served in turn."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._waiting: deque[SimpleQueue[Place]] = deque()
        self._lock = threading.RLock()  # a place may be dropped, and so be given back, by who holds it

    def take(self, seconds: float) -> Place | None:
        """A place, or None when there was none within ``seconds``."""
        with self._lock:
            if self._free > 0 and not self._waiting:
                self._free -= 1
                return Place(self)
            mine: SimpleQueue[Place] = SimpleQueue()
            self._waiting.append(mine)
        try:
            return mine.get(timeout=seconds)
        except Empty:
            return self._given_up(mine)

    def _given_up(self, mine: SimpleQueue[Place]) -> Place | None:
        with self._lock:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return None
        return mine.get_nowait()  # it came at the last moment

    def left(self) -> None:
        """Hand a place that was left to who has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().put(Place(self))
            else:
                self._free += 1
