"""Opening a database: PostgreSQL (psycopg 3) or SQLite (WAL), one transaction helper for both."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import StaticPool

from stageflow_durable.errors import ConfigurationError, RunBusy, SchemaBehind, StoreUnavailable
from stageflow_durable.state.bounded import ANSWER_SECONDS, connection_class
from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.line import Line
from stageflow_durable.state.metadata import PREFIX
from stageflow_durable.state.nested import session_on

CONNECT_SECONDS = 5
STATEMENT_MILLISECONDS = 15_000
IDLE_MILLISECONDS = 5_000
"""A process that was paused inside a transaction holds up everybody who needs its rows; a stage's own session may
take longer.
"""
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
        self.url = _parsed(url)
        self._prepares = prepares
        self._synchronous = synchronous
        self._clock = clock
        self._engines: dict[int, Engine] = {}

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
        if not self.is_sqlite:
            engine = create_engine(
                self.url,
                pool_size=5,
                max_overflow=20,
                pool_timeout=CONNECT_SECONDS,
                pool_pre_ping=False,
                isolation_level="READ COMMITTED",
                connect_args=_postgresql_arguments(self.url, self._prepares),
                hide_parameters=True,  # they may be secrets, and tracebacks get logged
            )
            event.listen(engine, "do_connect", _connect_bounded)
            event.listen(engine, "checkout", _refuse_dead)
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

    def _prepare_sqlite(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.create_function(SQLITE_CLOCK, 0, self._clock)
        for pragma in ("journal_mode = WAL", f"synchronous = {self._synchronous}", "foreign_keys = ON"):
            connection.execute(f"PRAGMA {pragma}")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """One transaction; commits at the end, rolls back on any error. Raises StoreUnavailable when the database is
        away. Within a stage whose session is open on SQLite it is a part of that one's.
        """
        if self.is_sqlite and (session := session_on(self.url)) is not None:
            with session.nested() as connection:
                yield connection
            return
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


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() == "postgresql" and parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        parsed.get_dialect()
    except (NoSuchModuleError, ValueError) as error:
        raise ConfigurationError(f"STAGEFLOW_DATABASE_URL: {error}") from error
    except Exception as error:  # SQLAlchemy's ArgumentError quotes the URL, with its password
        raise ConfigurationError(
            "STAGEFLOW_DATABASE_URL is not a SQLAlchemy URL, e.g. postgresql+psycopg://user@host/db"
        ) from error
    if parsed.get_backend_name() not in ("postgresql", "sqlite"):
        raise ConfigurationError(
            f"STAGEFLOW_DATABASE_URL: {parsed.get_backend_name()} is not supported; use PostgreSQL or SQLite"
        )
    return parsed


def _postgresql_arguments(url: URL, prepares: bool) -> dict[str, Any]:
    # A half-open connection or a stopped server has to show within bounded time, never hang a worker. What the URL says
    # of it is the user's; of its options (a search_path, say) only what ours do not set.
    bounds: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": STATEMENT_MILLISECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "stageflow",
    }
    return {name: value for name, value in bounds.items() if name not in url.query} | {
        "prepare_threshold": 2 if prepares else None,
        "client_encoding": "utf8",  # what goes below psycopg's cursors is, whatever PGCLIENTENCODING says
        "options": " ".join(
            (
                *url.normalized_query.get("options", ()),
                f"-c statement_timeout={STATEMENT_MILLISECONDS} -c lock_timeout={STATEMENT_MILLISECONDS}",
                f"-c idle_in_transaction_session_timeout={IDLE_MILLISECONDS}",
                "-c default_transaction_isolation=read\\ committed",  # of what commits by itself, SQLAlchemy is silent
            )
        ),
    }


def _connect_bounded(_dialect: object, _record: object, given: Any, options: Any) -> Any:
    return connection_class().connect(*given, **options)


def _refuse_dead(connection: Any, record: Any, _proxy: object) -> None:
    fresh = record.info.setdefault("fresh", True)
    record.info["fresh"] = False  # SQLAlchemy empties it when it connects again
    if connection.closed or Line(connection.fileno()).closed:
        if fresh:  # SQLAlchemy would try once more, and then raise what nobody takes for a database that is away
            raise StoreUnavailable("the database closed a connection that it had just opened")
        # The pool answers with a new connection; nothing was sent over the old one.
        raise DisconnectionError("the server has closed this connection")
    connection.answer_seconds = ANSWER_SECONDS  # whoever had it before may have been more patient


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


class _Translated:  # not a generator: it is around every statement of a stage's path
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PoolTimeout):
            raise StoreUnavailable(f"no database connection within {CONNECT_SECONDS} s; is it overloaded?") from error
        if isinstance(error, DBAPIError) and (ours := _ours(error)) is not None:
            raise ours from error


_TRANSLATED = _Translated()


def translated() -> _Translated:
    """Turn a driver's errors about reachability and schema into ours."""
    return _TRANSLATED


_NO_DATABASE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_BUSY = frozenset({"55P03", "57014"})  # lock_not_available, query_canceled (by our own timeout)
_AWAY = frozenset(
    {"25006", "25P03", "57P01", "57P02", "57P03"}
)  # read-only after a failover, idle too long, shutting down


def _ours(error: DBAPIError) -> Exception | None:
    text = str(error.orig)
    # A body's session may miss a table of its own, which no upgrade of ours brings. Our own way to the driver has no
    # statement here.
    ours = PREFIX in text or PREFIX in (error.statement or PREFIX)
    if ours and (
        any(sign in text for sign in ("no such table", "no such column", "has no column named"))
        or type(error.orig).__name__ in ("UndefinedTable", "UndefinedColumn")
    ):
        return SchemaBehind(f"{text.splitlines()[0]}; run: stageflow db upgrade")
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_ERROR:
        return None  # the statement is wrong, which SQLite calls operational too
    if code in _NO_DATABASE:
        return StoreUnavailable(f"the database's file cannot be read: {text}")
    state = getattr(error.orig, "sqlstate", None)
    if state in _BUSY:
        return RunBusy(f"somebody else holds the row: {text.splitlines()[0]}")
    if isinstance(error, OperationalError) or error.connection_invalidated or state in _AWAY:
        return StoreUnavailable(
            f"the database did not answer: {text.splitlines()[0] if text else type(error.orig).__name__}"
        )
    return None
