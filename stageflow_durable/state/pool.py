"""Connections below SQLAlchemy that the threads of a process share: few, however many threads there are.

A worker's threads, a web server's and an event loop's helpers all come here, each for one statement. Who came last gets
the connection that was used last, so that a process with one thread works over one connection, and those that nobody
needs any more are closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar, TypeVarTuple

from stageflow_durable.state.database import Database
from stageflow_durable.state.own import Own, opened
from stageflow_durable.state.places import Places
from stageflow_durable.state.trouble import POOL_SECONDS, is_full, none_free

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
