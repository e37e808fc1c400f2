"""Statements of the transactions: written once in SQLAlchemy Core, compiled once a database, run on the driver's
connection beneath SQLAlchemy's.

SQLAlchemy's work per call costs ten times the database's, and building a statement anew ten times that. What begins,
commits and pools connections is SQLAlchemy's all the same.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from stageflow_durable.state.dialect import SQLITE, by_place

Compiled = tuple[str, Callable[[Mapping[str, Any]], Any]]
"""A text, and what makes the driver's parameters of those given."""


class Prepared:
    """One statement. Columns that an INSERT or UPDATE does not name are those that a call gives.

    :param element: the statement, or what makes it of ``sqlalchemy.dialects.postgresql`` or ``….sqlite`` where it has
        an ``ON CONFLICT``.
    """

    __slots__ = ("_compiled", "_element", "_is_open", "_row")

    def __init__(self, element: Any | Callable[[Any], Any]) -> None:
        self._element: Any = element
        self._is_open = not _of(element, sqlite).is_select
        self._compiled: dict[object, Compiled] = {}
        self._row: Any = None

    def run(self, connection: Connection, /, **given: Any) -> Any:
        """Run it; returns the driver's cursor, whose rows are tuples."""
        sql, parameters = self._for(connection, given)
        return send(connection, sql, parameters(given))

    def value(self, connection: Connection, /, **given: Any) -> Any:
        """The first column of the first row; None where there is no row."""
        row = self.run(connection, **given).fetchone()
        return None if row is None else row[0]

    def column(self, connection: Connection, /, **given: Any) -> list[Any]:
        """The first column of every row."""
        return [row[0] for row in self.run(connection, **given).fetchall()]

    def rows(self, connection: Connection, /, **given: Any) -> list[Any]:
        """Every row, with its columns by name; booleans are whatever the driver makes of them."""
        if self._row is None:
            columns = [column.key for column in self._element.selected_columns]
            self._row = namedtuple("Row", columns)  # type: ignore[misc]  # noqa: PYI024  # they are known only now
        return [self._row._make(row) for row in self.run(connection, **given).fetchall()]

    def many(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Run it for each of the rows, which give the same columns."""
        if len(rows) == 1:
            self.run(connection, **rows[0])
        elif rows:
            sql, parameters = self._for(connection, rows[0])
            send_many(connection, sql, [parameters(row) for row in rows])

    def _for(self, connection: Connection, given: Mapping[str, Any]) -> Compiled:
        name = connection.dialect.driver  # a caller's may be another than ours, with parameters of another style
        key = (name, *given) if self._is_open else name
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._compile(connection, list(given))
        return found

    def _compile(self, connection: Connection, names: list[str]) -> Compiled:
        is_sqlite = connection.dialect.name == "sqlite"
        compiled = _of(self._element, sqlite if is_sqlite else postgresql).compile(
            dialect=SQLITE if is_sqlite else connection.dialect,
            column_keys=names if self._is_open else None,
        )
        fixed = {name: value for name, value in compiled.params.items() if name not in names}
        place = by_place(compiled) if compiled.positiontup is not None else dict
        return str(compiled), (lambda given: place({**fixed, **given})) if fixed else place


def _of(element: Any, dialect: Any) -> Any:
    return element if hasattr(element, "compile") else element(dialect)


def send(connection: Connection, sql: str, values: Any) -> Any:
    """Execute a text on the driver, within the connection's transaction."""
    driver = _driver(connection)
    try:
        cursor = driver if hasattr(driver, "execute") else driver.cursor()
        return cursor.execute(sql, values) or cursor
    except _error_of(connection) as error:
        raise _as_sqlalchemy(connection, error) from error


def send_many(connection: Connection, sql: str, rows: Sequence[Any]) -> None:
    """Execute a text for many rows."""
    try:
        _driver(connection).cursor().executemany(sql, rows)
    except _error_of(connection) as error:
        raise _as_sqlalchemy(connection, error) from error


def _driver(connection: Connection) -> Any:
    if not connection.in_transaction():
        connection.begin()  # as SQLAlchemy's own execute does
    return connection.connection.dbapi_connection


def _error_of(connection: Connection) -> type[Exception]:
    kind: type[Exception] = connection.dialect.dbapi.Error  # type: ignore[union-attr]  # a dialect that has connected has one
    return kind


def _as_sqlalchemy(connection: Connection, error: Exception) -> DBAPIError:
    """The error as SQLAlchemy would raise it, without the statement and its values; a lost connection is thrown
    away.
    """
    lost = connection.dialect.is_disconnect(error, connection.connection.dbapi_connection, None)  # type: ignore[arg-type]  # it is the driver's
    if lost:
        connection.invalidate(error)
    made: Any = DBAPIError.instance("", {}, error, _error_of(connection), connection_invalidated=lost)
    return made  # type: ignore[no-any-return]  # a subclass that fits the error
