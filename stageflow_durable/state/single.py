"""Statements that are a transaction each, for any number of threads: an idempotency store is used by all those of a web
server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from stageflow_durable.state.database import Database
from stageflow_durable.state.driver import AsSqlalchemy, Statement
from stageflow_durable.state.pool import Connections, Own
from stageflow_durable.state.postgres_protocol import Rows
from stageflow_durable.state.trouble import translated

MOST = 25
"""Connections at once; who finds all in use waits."""

T = TypeVar("T")


class Singles:
    """Runs single statements on one database (``is_sqlite``: on which kind). Raises StoreUnavailable when it is
    away.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._connections = Connections(database, prepares=database.prepares, most=MOST)
        self._errors = AsSqlalchemy(database)
        self.is_sqlite = database.is_sqlite

    def rows(self, statement: Statement, given: Mapping[str, Any]) -> Rows:
        """Run it; returns its rows."""
        if self.is_sqlite:
            return self._by_cursor(statement, given, lambda cursor: cursor.fetchall())
        with translated(), self._errors:
            return self._connections.use(Own.rows, statement, given)

    def either(self, first: Statement, second: Statement, given: Mapping[str, Any]) -> tuple[Rows, Rows]:
        """Run the first and, where it has no rows, the second; returns the rows of both."""
        if self.is_sqlite:
            rows = self.rows(first, given)
            return rows, [] if rows else self.rows(second, given)
        with translated(), self._errors:
            return self._connections.use(_either, first, second, given)

    def touched(self, statement: Statement, given: Mapping[str, Any]) -> bool:
        """Run it; returns whether it touched a row."""
        if self.is_sqlite:
            return self._by_cursor(statement, given, lambda cursor: bool(cursor.rowcount > 0))
        with translated(), self._errors:
            return self._connections.use(Own.touched, statement, given)

    def close(self) -> None:
        """Close what this process keeps; the next statement opens a new connection."""
        self._connections.close()

    def _by_cursor(self, statement: Statement, given: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """On SQLite, over a connection of SQLAlchemy's pool: one in memory has no other."""
        with translated(), self._errors:
            pooled: Any = self._database.engine.raw_connection()
            try:  # the statement commits itself
                return read(pooled.driver_connection.execute(statement.sql, statement.values(given)))
            finally:
                pooled.close()


def _either(connection: Own, first: Statement, second: Statement, given: Mapping[str, Any]) -> tuple[Rows, Rows]:
    rows = connection.rows(first, given)
    return rows, [] if rows else connection.rows(second, given)
