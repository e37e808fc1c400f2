"""Statements that are a transaction each, for callers of whose threads nobody knows how many there are.

The thread of a worker holds its connection (``driver``); an idempotency store is used by any thread of a web server.
So these connections are shared, as those of SQLAlchemy's pool are. The pool's own ways of taking one, looking after it
and giving it back cost as much as the statement: where statements may be prepared they are kept here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.database import CONNECT_SECONDS, Database, translated
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.own import Own, opened
from stageflow_durable.state.wire import Rows, Wire

MOST = 25
"""Connections at once, as many as the pool has; who finds all in use waits."""

KEPT = 5
"""Connections that stay open when nobody uses them."""

T = TypeVar("T")


class Singles:
    """Runs single statements on one database (``is_sqlite``: on which kind). Raises StoreUnavailable when it is
    away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connections = Connections(database)
        self._errors = _Errors(database)
        self._prepares = database.prepares
        self.is_sqlite = database.is_sqlite

    def rows(self, statement: Statement, given: Mapping[str, Any]) -> Rows:
        """Run it; returns its rows."""
        if self._prepares:
            return self._below_cursors(lambda wire: wire.rows(statement.prepared, given))
        return self._by_cursor(statement, given, lambda cursor: cursor.fetchall())

    def either(self, first: Statement, second: Statement, given: Mapping[str, Any]) -> tuple[Rows, Rows]:
        """Run the first and, where it has no rows, the second; returns the rows of both."""
        if self._prepares:
            return self._below_cursors(lambda wire: wire.either(first.prepared, second.prepared, given))
        rows = self.rows(first, given)
        return rows, [] if rows else self.rows(second, given)

    def touched(self, statement: Statement, given: Mapping[str, Any]) -> bool:
        """Run it; returns whether it touched a row."""
        if self._prepares:
            return self._below_cursors(lambda wire: wire.touched(statement.prepared, given) > 0)
        return self._by_cursor(statement, given, lambda cursor: bool(cursor.rowcount > 0))

    def close(self) -> None:
        """Close what this process keeps; the next statement opens a new connection."""
        self._connections.close()

    def _below_cursors(self, do: Callable[[Wire], T]) -> T:
        with translated(), self._errors:
            return self._connections.use(do)

    def _by_cursor(self, statement: Statement, given: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        with translated(), self._errors:
            pooled: Any = self._database.engine.raw_connection()
            try:
                found = read(pooled.driver_connection.execute(statement.sql, statement.values(given)))
                pooled.driver_connection.commit()  # on SQLite the statement has committed itself
            except BaseException:
                # After a timeout or Ctrl-C in the middle of a statement PostgreSQL's answer is still to come.
                (pooled.close if self.is_sqlite else pooled.invalidate)()
                raise
            pooled.close()
            return found


class _Errors:
    """Gives a driver's errors SQLAlchemy's types."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        dbapi: Any = self._database.engine.dialect.dbapi
        if isinstance(error, dbapi.Error):
            raise DBAPIError.instance("", {}, error, dbapi.Error) from error


class Connections:
    """Connections of this process to PostgreSQL, each used by one thread at a time. Safe to make before a fork."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._renew()

    def _renew(self) -> None:
        self._kept: list[Own] = []
        free: SimpleQueue[None] = SimpleQueue()  # a semaphore, without what threading's do in Python
        for _ in range(MOST):
            free.put(None)
        self._free = free
        self._pid = os.getpid()  # last: another thread that sees it takes what is there

    def use(self, do: Callable[[Wire], T]) -> T:
        """Run one statement over a connection. Raises psycopg's errors, and StoreUnavailable when none is free."""
        if self._pid != os.getpid():  # the parent's connections are the parent's, and so are those who wait for one
            self._renew()
        kept, free = self._kept, self._free
        try:
            free.get(timeout=CONNECT_SECONDS)
        except Empty:
            raise StoreUnavailable(f"no database connection within {CONNECT_SECONDS} s; is it overloaded?") from None
        try:
            connection = self._take(kept)
            try:
                answer = do(connection.wire)
            except BaseException:
                connection.close()  # an answer that was not read is not the next one's
                raise
            self._give(kept, connection)
            return answer
        finally:
            free.put(None)

    def _take(self, kept: list[Own]) -> Own:
        while kept:
            try:
                connection = kept.pop()
            except IndexError:  # another thread was faster
                break
            if connection.usable:
                return connection
            connection.close()
        return Own(opened(self._database), is_sqlite=False)

    def _give(self, kept: list[Own], connection: Own) -> None:
        if kept is self._kept and len(kept) < KEPT:
            kept.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        kept, self._kept = self._kept, []
        if self._pid == os.getpid():
            for connection in kept:
                connection.close()
