"""Statements on the driver itself: written in SQLAlchemy Core, compiled once, run on a connection that its thread
holds.

The path of a stage is a handful of statements, and SQLAlchemy's work per call costs more than the database's. What
runs here is the same SQL.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Self
from weakref import ref

from sqlalchemy import Engine
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import DBAPIError

from stageflow_durable.state.clock import now
from stageflow_durable.state.database import Database, translated
from stageflow_durable.state.dialect import SQLITE, by_place
from stageflow_durable.state.own import Own, opened
from stageflow_durable.state.wire import ServerStatement

_make: Any = postgresql.dialect  # its constructor has no types
_POSTGRESQL = _make(paramstyle="pyformat")

CLOCK_SECONDS = 30.0
"""How long the offset between this machine's clock and the database's is believed."""


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


class _Held(Own):
    """One thread's connection, closed once that thread has ended, or the driver has let go and no statement runs."""

    def __init__(self, connection: Any, *, is_sqlite: bool) -> None:
        super().__init__(connection, is_sqlite=is_sqlite)
        self._let_go = False
        self._in_use = threading.Lock()

    @property
    def usable(self) -> bool:
        """As before, and nobody has let go of it."""
        return not self._let_go and super().usable

    def __enter__(self) -> Self:
        self._in_use.acquire()
        return self

    def __exit__(self, *_error: object) -> None:
        self._in_use.release()
        if self._let_go:
            self.close()

    def let_go(self) -> None:
        """Close it, or leave that to the thread whose statement runs."""
        self._let_go = True
        if self._in_use.acquire(blocking=False):
            # Before the release: a thread that saw it usable may be about to send, over what libpq would be freeing.
            self.close()
            self._in_use.release()


class Driver:
    """A database's driver-level connections, one for each thread that asks, all autocommitting. ``prepares``: whether
    statements on PostgreSQL go below psycopg's cursors.
    """

    def __init__(self, database: Database, *, prepares: bool = True) -> None:
        self._database = database
        self._prepares = prepares and not database.is_sqlite
        self._local = threading.local()
        self._all: set[ref[_Held]] = set()

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self._database.is_sqlite

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine of this process."""
        return self._database.engine

    def _held(self) -> _Held:
        held: _Held | None = getattr(self._local, "held", None)
        if held is None or not held.usable:
            connection = opened(self._database)
            self.drop()
            held = self._local.held = _Held(connection, is_sqlite=self.is_sqlite)
            self._all.add(ref(held, self._all.discard))
        return held

    def run(self, statement: Statement, given: Mapping[str, Any]) -> Any:
        """Run one statement in a transaction of its own; returns the cursor."""
        with translated(), self._errors(), self._held() as held:
            return held.connection.execute(statement.sql, statement.values(given))

    def row(self, statement: Statement, given: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Run one statement in a transaction of its own; returns its first row. Booleans and states are as the driver
        gives them.
        """
        if not self._prepares:
            found: tuple[Any, ...] | None = self.run(statement, given).fetchone()
            return found
        with translated(), self._errors(), self._held() as held:
            return next(iter(held.wire.rows(statement.prepared, given)), None)

    def touched(self, statement: Statement, given: Mapping[str, Any]) -> bool:
        """Run one statement in a transaction of its own; returns whether it touched a row."""
        if not self._prepares:
            return bool(self.run(statement, given).rowcount)
        with translated(), self._errors(), self._held() as held:
            return held.wire.touched(statement.prepared, given) > 0

    def run_if(self, first: Statement, rest: Sequence[Statement], given: Mapping[str, Any]) -> bool:
        """On SQLite: one transaction that goes on with ``rest`` only when ``first`` touched a row."""
        with translated(), self._errors(), self._held() as held:
            connection: sqlite3.Connection = held.connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                touched = connection.execute(first.sql, first.values(given)).rowcount > 0
                for statement in rest if touched else ():
                    connection.execute(statement.sql, statement.values(given))
                connection.execute("COMMIT" if touched else "ROLLBACK")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return touched

    def _errors(self) -> _Errors:
        return _Errors(self)

    def clock(self) -> float:
        """The database's time, estimated from an offset that is measured now and then; for records, never to decide
        about leases.
        """
        if self.is_sqlite:
            return self._database.clock()
        read_at, offset = getattr(self._local, "clock", (float("-inf"), 0.0))
        here = time.monotonic()
        if here - read_at > CLOCK_SECONDS:
            there = float(self.run(_clock_statement(self.is_sqlite), {}).fetchone()[0])
            here = time.monotonic()
            read_at, offset = here, there - here
            self._local.clock = (read_at, offset)
        return here + offset

    def drop(self) -> None:
        """Close this thread's connection."""
        held: _Held | None = getattr(self._local, "held", None)
        self._local.held = None
        if held is not None:
            held.let_go()

    def close(self) -> None:
        """Close what all threads hold; one that goes on gets a new connection."""
        for known in self._all.copy():  # in one step: other threads connect meanwhile
            if (held := known()) is not None:
                held.let_go()


class _Errors:
    """Gives a driver's errors SQLAlchemy's types, and drops a connection that one broke."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None:
            return
        dbapi = self._driver.engine.dialect.dbapi
        ours = isinstance(error, dbapi.Error)  # type: ignore[union-attr]  # it is loaded once an engine is there
        # A timeout or Ctrl-C in the middle of a statement leaves PostgreSQL's answer still to come.
        if ours or not self._driver.is_sqlite:
            self._driver.drop()
        if not ours:
            return
        raise DBAPIError.instance("", {}, error, dbapi.Error) from error  # type: ignore[union-attr]  # as above


_statements: dict[bool, Statement] = {}


def _clock_statement(is_sqlite: bool) -> Statement:
    from sqlalchemy import select

    if is_sqlite not in _statements:
        _statements[is_sqlite] = Statement(select(now()), is_sqlite=is_sqlite)
    return _statements[is_sqlite]
