"""Statements on the driver itself: written in SQLAlchemy Core, compiled once, run on a connection that the process
keeps.

The path of a stage is a handful of statements, and SQLAlchemy's work per call costs more than the database's. What
runs here is the same SQL.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from stageflow_durable.state.clock import now
from stageflow_durable.state.database import SQLITE_BUSY_SECONDS, Database
from stageflow_durable.state.dialect import SQLITE, by_place
from stageflow_durable.state.pool import Connections, Own
from stageflow_durable.state.postgres_protocol import ServerStatement
from stageflow_durable.state.trouble import translated

_make: Any = postgresql.dialect  # its constructor has no types
_POSTGRESQL = _make(paramstyle="pyformat")

CLOCK_SECONDS = 5.0
"""How long the offset between this machine's clock and the database's is believed, over one connection."""


class Statement:
    """One compiled statement. Parameters that the caller does not give keep the values they were written with."""

    def __init__(self, element: Any, *, is_sqlite: bool) -> None:
        compiled = element.compile(dialect=SQLITE if is_sqlite else _POSTGRESQL)
        self.sql = str(compiled)
        self._defaults = dict(compiled.params)
        self._element = element
        self._place: Any = by_place(compiled) if is_sqlite else dict

    @cached_property
    def prepared(self) -> ServerStatement:
        """The same for PostgreSQL, below psycopg's cursors."""
        return ServerStatement(self._element)

    def values(self, given: Mapping[str, Any]) -> Any:
        """All parameters, as the driver takes them."""
        return self._place({**self._defaults, **given})


class Driver:
    """A database's driver-level connections, shared by the threads of a process, all autocommitting. ``prepares``:
    whether statements on PostgreSQL go below psycopg's cursors.
    """

    def __init__(self, database: Database, *, prepares: bool = True) -> None:
        self._database = database
        # On SQLite whoever writes holds a connection while it waits for the one writer.
        patience = SQLITE_BUSY_SECONDS if database.is_sqlite else None
        self._connections = Connections(database, prepares=prepares, patience=patience)
        self._errors = AsSqlalchemy(database)
        self._offset = (float("-inf"), 0.0)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self._database.is_sqlite

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine of this process."""
        return self._database.engine

    def rows(self, statement: Statement, given: Mapping[str, Any]) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; returns its rows, read before another thread gets the
        connection. Booleans and states are as the driver gives them.
        """
        with translated(), self._errors:
            return list(self._connections.use(Own.rows, statement, given))

    def row(self, statement: Statement, given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """The same, its first row alone."""
        return next(iter(self.rows(statement, given)), None)

    def touched(self, statement: Statement, given: Mapping[str, Any]) -> bool:
        """Run one statement in a transaction of its own; returns whether it touched a row."""
        with translated(), self._errors:
            return self._connections.use(Own.touched, statement, given)

    def run_if(self, first: Statement, rest: Sequence[Statement], given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """On SQLite: one transaction that goes on with ``rest`` only when ``first`` returned a row; returns that."""
        with translated(), self._errors:
            return self._connections.use(_run_if, first, rest, given)

    def clock(self) -> float:
        """The database's time, estimated from an offset that is measured now and then; for records, never to decide
        about leases.
        """
        if self.is_sqlite:
            return self._database.clock()
        read_at, offset = self._offset
        here = time.monotonic()
        if here - read_at > CLOCK_SECONDS:
            there = float(self.rows(_clock_statement(self.is_sqlite), {})[0][0])
            here = time.monotonic()
            offset = there - here
            self._offset = (here, offset)
        return here + offset

    def close(self) -> None:
        """Close what this process has; whoever goes on gets a new connection."""
        self._connections.close()


def _run_if(own: Own, first: Statement, rest: Sequence[Statement], given: Mapping[str, Any]) -> tuple[Any, ...] | None:
    connection: sqlite3.Connection = own.connection
    connection.execute("BEGIN IMMEDIATE")
    try:
        found: tuple[Any, ...] | None = next(iter(connection.execute(first.sql, first.values(given)).fetchall()), None)
        for statement in () if found is None else rest:
            connection.execute(statement.sql, statement.values(given))
        connection.execute("ROLLBACK" if found is None else "COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return found


class AsSqlalchemy:
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


_statements: dict[bool, Statement] = {}


def _clock_statement(is_sqlite: bool) -> Statement:
    from sqlalchemy import select

    if is_sqlite not in _statements:
        _statements[is_sqlite] = Statement(select(now()), is_sqlite=is_sqlite)
    return _statements[is_sqlite]
