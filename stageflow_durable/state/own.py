"""A connection below SQLAlchemy: opened by its pool, counted by it no longer, closed with whatever holds it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

from stageflow_durable.state.database import Database, Line
from stageflow_durable.state.postgres_protocol import RawConnection, Rows, ServerStatement


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
