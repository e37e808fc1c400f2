"""A caller's own transaction, in which verbs of the engine take part: what they write is there if and only if that one
commits.

Each verb is a savepoint, so that what is refused leaves the transaction as it was. It locks no row of another run, and
waits for nobody longer than :data:`WAIT_SECONDS`. Messages are sent after the commit, for runs that are there by then:
a savepoint may have been rolled back, and a commit may have failed. What a process does not send any more because it
died, the sweep finds.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from sqlalchemy import Connection, event
from sqlalchemy.exc import DBAPIError

from stageflow_durable.errors import ConfigurationError, RunBusy, SchemaBehind
from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.database import Database, translated
from stageflow_durable.store.protocol import CallersConnection, CallersSession
from stageflow_durable.store.session import Place, place_of_session

log = logging.getLogger("stageflow.accept")

WAIT_SECONDS = 5
"""How long a verb waits for another transaction: one that starts a run with the same key, or changes the same run."""

COMMIT_SECONDS = 60.0
"""How long a commit may take until its messages are left to the sweep."""

_OUTBOX = "stageflow_outbox"
_AUTOCOMMIT = "its connection commits each statement by itself (autocommit); begin a transaction"
_AGAIN = "nothing was written, and the transaction is as it was"


class Waiting(NamedTuple):
    """What waits for a commit: ``actions`` are done if ``is_there`` says so of the run."""

    run_id: str
    is_there: Callable[[str], bool]
    actions: list[Callable[[], object]]

    def send(self) -> None:
        """Do what waited, after the commit. Raises nothing: the caller has committed."""
        try:
            if self.is_there(self.run_id):
                for action in self.actions:
                    action()
        except Exception as error:  # noqa: BLE001  # the sweep finds it
            log.warning("run %s is left to the recovery sweep: %s", self.run_id, error)


class _Outbox:
    """What waits for the end of one transaction. ``root``: SQLAlchemy's object for it."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.waiting: list[Waiting] = []

    def send(self) -> None:
        """Do what waited, after the commit."""
        waiting, self.waiting = self.waiting, []
        for one in waiting:
            one.send()

    def send_apart(self) -> None:
        """The same in a thread of its own, once the transaction has ended. The process waits for it before it ends."""
        if self.waiting:
            threading.Thread(target=self._send_at_end, name="stageflow-after-commit").start()

    def _send_at_end(self) -> None:
        pause, until, seconds = threading.Event(), time.monotonic() + COMMIT_SECONDS, 0.0005
        while self.root.is_active and time.monotonic() < until:
            pause.wait(seconds)
            seconds = min(seconds * 1.5, 0.05)
        self.send()


@contextmanager
def joined(
    database: Database,
    session: CallersSession | None,
    connection: CallersConnection | None,
    is_there: Callable[[str], bool],
) -> Iterator[Callable[[str], object]]:
    """Let the verbs that are called inside take part in the transaction of ``session`` or ``connection``; gives what is
    to be called with the run's id. ``is_there``: whether a run is, seen from outside.
    """
    part, leave = _part(database, session, connection)
    part.require_usable()
    place = Place()
    place.holder = part
    runs: list[str] = []
    token = place_of_session.set(place)
    try:
        yield runs.append
    finally:
        part.is_open = False
        place_of_session.reset(token)
    if place.later:
        leave(Waiting(runs[0], is_there, place.later))


def _part(database: Database, session: Any, connection: Any) -> tuple[Joined, Callable[[Waiting], None]]:
    """How verbs take part, and where what waits for the commit is left."""
    if isinstance(connection, Foreign) and session is None:
        return connection.part(database), connection.leave
    own, its = _connection(session, connection)
    return Joined(own, database), lambda waiting: _outbox(own, its).waiting.append(waiting)  # noqa: PLW0108  # made when something waits


class Foreign(ABC):
    """A transaction of somebody else than SQLAlchemy, as ``connection=``."""

    def begin_nested(self) -> NoReturn:
        """A savepoint is made by its part alone."""
        raise NotImplementedError

    @abstractmethod
    def part(self, database: Database) -> Joined:
        """How verbs take part in it. Raises ConfigurationError."""

    @abstractmethod
    def leave(self, waiting: Waiting) -> None:
        """Leave something to its commit."""


def _connection(session: Any, connection: Any) -> tuple[Connection, Any]:
    """The connection, and the session that commits its transaction, or None. Raises ConfigurationError."""
    if session is not None and connection is not None:
        raise ConfigurationError("give session= or connection=, not both")
    what, given = ("session", session) if session is not None else ("connection", connection)
    if hasattr(given, "run_sync"):
        raise ConfigurationError(f"{what}= is an async one: await the twin of the method, as in engine.aenqueue(…)")
    if session is None:
        if not isinstance(given, Connection):
            raise ConfigurationError(f"connection= is a Connection of SQLAlchemy, not {type(given).__name__}")
        return given, None
    from sqlalchemy.orm import Session, scoped_session

    own = given() if isinstance(given, scoped_session) else given
    if not isinstance(own, Session):
        raise ConfigurationError(f"session= is a Session of SQLAlchemy, not {type(given).__name__}")
    found = own.connection()
    return found, None if own.bind is found else own


# --- after the commit -------------------------------------------------------------------------------------------------
# The listeners are functions of this module, once on each object: a connection may have many transactions.


def _outbox(connection: Connection, session: Any) -> _Outbox:
    found: _Outbox | None = connection.info.get(_OUTBOX)
    if found is None or found.root is not connection.get_transaction():
        found = connection.info[_OUTBOX] = _Outbox(connection.get_transaction())
    if session is not None:
        session.info[_OUTBOX] = found
        _listen(session, "after_commit", _session_committed)
    else:
        _listen(connection, "commit", _commits)
    return found


def _listen(target: Any, name: str, listener: Callable[..., None]) -> None:
    if not event.contains(target, name, listener):
        event.listen(target, name, listener)


def _session_committed(session: Any) -> None:
    """Called at the end of each of its savepoints too."""
    outbox = session.info.get(_OUTBOX)
    if outbox is None or outbox.root.is_active:
        return
    del session.info[_OUTBOX]
    if outbox.root.connection.dialect.is_async:
        outbox.send_apart()  # the event loop waits for nobody
    else:
        outbox.send()


def _commits(connection: Connection) -> None:
    """Called before the commit; of what is after it SQLAlchemy does not tell."""
    outbox = connection.info.get(_OUTBOX)
    if outbox is not None and outbox.root is connection.get_transaction():
        outbox.send_apart()


# --- one verb ---------------------------------------------------------------------------------------------------------


class Joined:
    """A caller's transaction, as the store sees it: see :func:`stageflow_durable.store.session.session_on`."""

    carries_verbs = True

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._database = database
        self.url = database.url
        self.is_open = True

    def require_usable(self) -> None:
        """Raise ConfigurationError where it commits by itself, or is of another database than the engine."""
        self._require_kind(self._connection.dialect.name)
        if not self._connection.in_transaction():
            self._connection.begin()
        driver: Any = self._connection.connection.dbapi_connection
        options = self._connection.get_execution_options()
        if options.get("isolation_level") == "AUTOCOMMIT" or getattr(driver, "autocommit", False) is True:
            raise _refused(_AUTOCOMMIT)
        if self._database.is_sqlite:
            self._require_file()

    def _require_kind(self, given: str) -> None:
        named = {"postgresql": "PostgreSQL", "sqlite": "SQLite"}
        own = self._database.url.get_backend_name()
        if given != own:
            raise _refused(f"it is on {named.get(given, given)}, and the engine on {named.get(own, own)}")

    @contextmanager
    def nested(self) -> Iterator[Connection]:
        """A part of the transaction that is undone alone when it fails. Raises RunBusy."""
        with translated():
            try:
                with self._patient(), self._savepoint(), self._bounded():
                    yield self._connection
            except DBAPIError as error:
                busy = _busy(error)
                if busy is None:
                    raise
                raise busy from error

    def _savepoint(self) -> AbstractContextManager[Any]:
        return self._connection.begin_nested()

    def _row(self, sql: str) -> Sequence[Any] | None:
        """The first row of a statement, or None."""
        result = self._connection.exec_driver_sql(sql)
        return result.first() if result.returns_rows else None

    # --- PostgreSQL ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _bounded(self) -> Iterator[None]:
        """Whoever holds what is needed is waited for so long; what the caller had set is set again."""
        if self._database.is_sqlite:
            yield
            return
        before, _bound, *found = self._row(_BOUND) or ()
        _require_same(Identity(*found), self._database)
        yield
        if before != f"{WAIT_SECONDS}s":
            # Text of the server's own: a duration, with its unit.
            self._row(f"SET LOCAL lock_timeout = '{before}'")

    # --- SQLite -------------------------------------------------------------------------------------------------------

    def _require_file(self) -> None:
        """Begin the transaction where the driver has not yet, after it is known to be one on the engine's file."""
        if self._database.in_memory:
            raise _refused("SQLite in memory is one connection's own; use a file")
        theirs = (self._row("SELECT file FROM pragma_database_list WHERE name = 'main'") or ("",))[0]
        ours = Path(self._database.url.database or "")
        if not (theirs and ours.exists() and ours.samefile(theirs)):
            raise _refused(f"it is on {theirs or 'SQLite in memory'}, and the engine on {ours}")
        if self._row("SELECT 1 FROM sqlite_master WHERE name = 'stageflow_runs'") is None:
            raise SchemaBehind(f"{ours} has no tables of the engine; run: stageflow db upgrade")
        driver: Any = self._connection.connection.driver_connection
        if not driver.in_transaction:
            if driver.isolation_level is None and getattr(driver, "autocommit", -1) != 0:
                raise _refused(_AUTOCOMMIT)
            with translated(), self._patient():
                try:
                    # A savepoint that is not within a transaction would be one itself, and commit when it is released.
                    self._row("BEGIN IMMEDIATE")
                except DBAPIError as error:
                    raise _busy(error) or error from error
        if not self._connection.info.get(SQLITE_CLOCK):
            self._connection.connection.dbapi_connection.create_function(SQLITE_CLOCK, 0, self._database.clock)  # type: ignore[union-attr]  # SQLite's driver
            self._connection.info[SQLITE_CLOCK] = True

    @contextmanager
    def _patient(self) -> Iterator[None]:
        """SQLite's lock is waited for so long; the caller's own patience is set again."""
        if not self._database.is_sqlite:
            yield
            return
        (before,) = self._row("PRAGMA busy_timeout") or (0,)
        if before <= WAIT_SECONDS * 1000:
            yield
            return
        self._row(f"PRAGMA busy_timeout = {WAIT_SECONDS * 1000}")
        try:
            yield
        finally:
            self._row(f"PRAGMA busy_timeout = {before}")


# --- which database ---------------------------------------------------------------------------------------------------


class Identity(NamedTuple):
    """A database of PostgreSQL, and the table of runs that its search_path leads to; None: to none."""

    cluster: str
    database: str
    runs: str | None


_IDENTITY = """(SELECT system_identifier FROM pg_control_system())::text,
 (SELECT oid FROM pg_database WHERE datname = current_database())::text, to_regclass('stageflow_runs')::oid::text"""
_BOUND = f"""WITH told AS MATERIALIZED (SELECT current_setting('lock_timeout') AS before)
SELECT before, set_config('lock_timeout',
 CASE WHEN extract(epoch FROM before::interval) BETWEEN 0.001 AND {WAIT_SECONDS}
 THEN before ELSE '{WAIT_SECONDS}s' END, true), {_IDENTITY} FROM told"""  # noqa: S608  # constants alone
_known: dict[str, Identity] = {}


def identity(database: Database, *, anew: bool = False) -> Identity:
    """The engine's own, asked once. Raises SchemaBehind."""
    name = database.url.render_as_string()
    found = None if anew else _known.get(name)
    if found is None:
        with database.own() as connection:
            found = Identity(*connection.exec_driver_sql(f"SELECT {_IDENTITY}").one())
        if found.runs is None:
            raise SchemaBehind(f"{name} has no tables of the engine; run: stageflow db upgrade")
        _known[name] = found
    return found


def _require_same(theirs: Identity, database: Database) -> None:
    if theirs.runs is None:
        raise _refused("its database, or its search_path, has no tables of the engine")
    if theirs != identity(database) and theirs != identity(database, anew=True):  # it may have been made anew
        raise _refused("it is on another database than the engine, or its search_path leads to other tables")


def _refused(why: str) -> ConfigurationError:
    return ConfigurationError(f"the engine cannot take part in this transaction: {why} (docs/how-to/idempotency.md)")


def _busy(error: DBAPIError) -> RunBusy | None:
    orig: Any = error.orig
    if isinstance(orig, sqlite3.Error):
        code = getattr(orig, "sqlite_errorcode", 0) or 0
        if code == sqlite3.SQLITE_BUSY_SNAPSHOT:
            why = "another connection has written since this transaction began to read; begin it with BEGIN IMMEDIATE"
        elif code & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            why = "another connection holds SQLite's write lock"
        else:
            return None
        return RunBusy(f"{why}; {_AGAIN}")
    state = getattr(orig, "sqlstate", None) or getattr(orig, "pgcode", None)
    if state == "55P03":
        held = f"another transaction starts a run with this key, or holds the run, for more than {WAIT_SECONDS} s"
        return RunBusy(f"{held}; {_AGAIN}")
    if state == "40001":
        return RunBusy("another transaction did the same since this one began; roll it back and begin again")
    return None
