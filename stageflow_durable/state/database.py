"""Opening a database: PostgreSQL (psycopg 3) or SQLite (WAL), one transaction helper for both."""

from __future__ import annotations

import os
import select
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import StaticPool

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.address import parsed, usable
from stageflow_durable.state.bounded import ANSWER_SECONDS
from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.opening import CONNECT_SECONDS, arguments, connected
from stageflow_durable.state.trouble import POOL_SECONDS, is_full, translated
from stageflow_durable.store.session import session_on

__all__ = ["CONNECT_SECONDS", "Database", "be_patient", "interruptible", "is_pooled", "translated"]

KEPT = 5
"""Connections for transactions that stay open when nobody uses them."""
MOST = 25
"""Such connections at once: each of a pool's threads may run a stage that uses ``ctx.session``."""
FULL_SECONDS = 2.0
"""How long a server that has no connection left is asked again."""
SESSION_MILLISECONDS = 600_000
SQLITE_BUSY_SECONDS = 30


class Database:
    """A database, reached lazily and by each process through connections of its own.

    ``clock``: seconds since the epoch for SQLite (PostgreSQL has its own). ``synchronous``: SQLite's durability,
    ``"FULL"`` or ``"NORMAL"`` (NORMAL survives a killed process, not a power cut). ``prepares``: whether psycopg may
    prepare statements.
    """

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "FULL",
        clock: Callable[[], float] = time.time,
        prepares: bool = True,
    ) -> None:
        self.url = parsed(url)
        self._prepares = prepares
        self._synchronous = synchronous
        self._clock = clock
        self._engines: dict[int, Engine] = {}
        self._pooled = False

    @property
    def pooled(self) -> bool:
        """Whether a pooler was met on the way to the database, which gives each transaction another connection."""
        return self._pooled

    @property
    def clock(self) -> Callable[[], float]:
        """SQLite's clock: seconds since the epoch."""
        return self._clock

    @property
    def prepares(self) -> bool:
        """Whether statements may be prepared on PostgreSQL."""
        return self._prepares and not self.is_sqlite

    @property
    def is_sqlite(self) -> bool:
        """Whether this is SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def in_memory(self) -> bool:
        """Whether this is SQLite in memory, which is its one connection."""
        return self.is_sqlite and self.url.database in (None, "", ":memory:")

    @property
    def in_session(self) -> bool:
        """Whether verbs take part in another transaction here: a caller's own, or on SQLite that of a stage."""
        return session_on(self.url) is not None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine of this process; after a fork the parent's connections are left alone and new ones
        opened.
        """
        made = self._engines.get(os.getpid())
        if made is None:
            for engine in self._of_parents():
                engine.dispose(close=False)
            # Two threads may come here at once. No lock, which a fork might leave held for ever: the second's engine,
            # which has opened nothing yet, is forgotten.
            made = self._engines.setdefault(os.getpid(), self._create())
        return made

    def _of_parents(self) -> list[Engine]:
        there = [self._engines.pop(pid, None) for pid in tuple(self._engines) if pid != os.getpid()]
        return [engine for engine in there if engine is not None]

    def _create(self) -> Engine:
        usable(self.url)
        if not self.is_sqlite:
            engine = create_engine(
                self.url,
                pool_size=KEPT,
                max_overflow=MOST - KEPT,
                pool_timeout=POOL_SECONDS,
                pool_pre_ping=False,
                isolation_level="READ COMMITTED",
                connect_args=arguments(self.url, self._prepares),
                hide_parameters=True,  # they may be secrets, and tracebacks get logged
            )
            event.listen(engine, "do_connect", self._connect)
            event.listen(engine, "checkout", _refuse_dead)
            if self._pooled:
                event.listen(engine, "begin", _say_prelude)
            return engine
        engine = create_engine(
            self.url,
            connect_args={"timeout": SQLITE_BUSY_SECONDS, "check_same_thread": False},
            hide_parameters=True,
            **({"poolclass": StaticPool} if self.in_memory else {}),
        )
        event.listen(engine, "connect", self._prepare_sqlite)
        event.listen(engine, "begin", _begin_immediate)
        return engine

    def _connect(self, _dialect: object, _record: object, given: Any, options: Any) -> Any:
        made = self._connected_in_time(given, options)
        if made.prelude is not None:
            self._pooled = True
            if not event.contains(self.engine, "begin", _say_prelude):  # nothing of it costs who meets no pooler
                event.listen(self.engine, "begin", _say_prelude)
        return made

    def _connected_in_time(self, given: Any, options: Any) -> Any:
        """Where the server has no connection left, another process may give one back in a moment."""
        until = time.monotonic() + FULL_SECONDS
        while True:
            try:
                return connected(given, options, pooled=self._pooled)
            except Exception as error:
                if not is_full(error) or time.monotonic() > until:
                    raise
                threading.Event().wait(0.05)

    def _prepare_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.create_function(SQLITE_CLOCK, 0, self._clock)
        for pragma in ("journal_mode = WAL", f"synchronous = {self._synchronous}", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction; commits at the end, rolls back on any error. Raises StoreUnavailable when the database is
        away. Where verbs take part in another transaction it is a part of that one's.
        """
        if (session := session_on(self.url)) is not None:
            with session.nested() as connection:
                yield connection
            return
        with self.own() as connection:
            yield connection

    @contextmanager
    def own(self) -> Iterator[Connection]:
        """:meth:`transaction`, and never a part of another one."""
        with translated(), self.engine.connect() as connection, connection.begin(), interruptible(connection):
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for reading, one snapshot a statement; on SQLite it takes no write lock."""
        with (
            translated(),
            self.engine.connect().execution_options(stageflow_read=True) as connection,
            interruptible(connection),
        ):
            yield connection

    def dispose(self) -> None:
        """Close this process's connections."""
        for pid, engine in tuple(self._engines.items()):
            engine.dispose(close=pid == os.getpid())
        self._engines.clear()


def is_pooled(url: str) -> bool:
    """Whether a pooler stands before this database. Raises StoreUnavailable."""
    database = Database(url)
    try:
        with database.read():
            return database.pooled
    finally:
        database.dispose()


def _refuse_dead(connection: Any, record: Any, _proxy: object) -> None:
    fresh = record.info.setdefault("fresh", True)
    record.info["fresh"] = False  # SQLAlchemy empties it when it connects again
    if connection.closed or Line(connection.fileno()).closed:
        if fresh:  # SQLAlchemy would try once more, and then raise what nobody takes for a database that is away
            raise StoreUnavailable("the database closed a connection that it had just opened")
        # The pool answers with a new connection; nothing was sent over the old one.
        raise DisconnectionError("the server has closed this connection")
    connection.answer_seconds = ANSWER_SECONDS  # whoever had it before may have been more patient


def _say_prelude(connection: Connection) -> None:
    driver: Any = connection.connection.driver_connection
    try:
        driver.execute(driver.prelude)
    except driver_error(connection) as error:
        raise DBAPIError.instance("", {}, error, driver_error(connection)) from error


def driver_error(connection: Connection) -> type[Exception]:
    """What the driver's errors are."""
    kind: type[Exception] = connection.dialect.dbapi.Error  # type: ignore[union-attr]  # a dialect that has connected has one
    return kind


def be_patient(connection: Connection, seconds: float | None) -> None:
    """Wait that long for each answer on this connection until it is given back; None: for ever."""
    connection.connection.driver_connection.answer_seconds = seconds  # type: ignore[union-attr]  # it is open


@contextmanager
def interruptible(connection: Connection) -> Iterator[None]:
    """Give up a connection whose statement was interrupted (a time limit, a signal): its answer is still to come, and a
    rollback over it would raise in the place of what interrupted.
    """
    try:
        yield
    except BaseException:
        if _awaits_answer(connection):
            connection.invalidate()
        raise


def _awaits_answer(connection: Connection) -> bool:
    if connection.closed or connection.invalidated or connection.dialect.name != "postgresql":
        return False
    from psycopg.pq import TransactionStatus

    driver: Any = connection.connection.driver_connection
    return bool(driver.pgconn.transaction_status == TransactionStatus.ACTIVE)


def _begin_immediate(connection: Connection) -> None:
    # A deferred transaction that reads first and writes later fails at once with "locked" instead of waiting.
    reading = connection.get_execution_options().get("stageflow_read")
    driver: Any = connection.connection.dbapi_connection  # SQLAlchemy's own way there costs more than the transaction
    try:
        driver.execute("BEGIN" if reading else "BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise DBAPIError.instance("", {}, error, sqlite3.Error) from error


# --- whether the server has closed a connection -----------------------------------------------------------------------
# After a restart of the database every connection that was idle meanwhile is dead, and a statement on it fails with
# nobody knowing whether it was carried out. The socket knows beforehand: asking it costs a microsecond, and nothing is
# sent.


_CLOSED = getattr(select, "POLLRDHUP", 0)  # where there is none, POLLHUP is told anyway


class Line:
    """The socket of an idle connection."""

    def __init__(self, fileno: int) -> None:
        self._poll = select.poll()
        self._poll.register(fileno, _CLOSED)

    @property
    def closed(self) -> bool:
        """Whether the other end hung up. A host that vanished without a word is not noticed here."""
        return bool(self._poll.poll(0))
