"""A connection in the hands of a stage: what the driver sees of it, and whether it can be given to others."""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from typing import Any

from sqlalchemy import Connection

LOCK_SECONDS = 5.0
"""How long a thread's statement that still runs is waited for before the connection is closed under it."""


class Hold:
    """The driver's connection below ``connection``, from its taking to its giving back.

    ``discard``: it is closed and not given back. ``lasting``: it never is (a database in memory, which is its
    connection). ``refused``: SQLite's driver was asked to end the transaction, and did not.
    """

    def __init__(self, connection: Connection, *, lasting: bool) -> None:
        self._connection = connection
        self._driver: Any = connection.connection.dbapi_connection
        self._lasting = lasting
        self._references = sys.maxsize
        self.discard = False
        self.refused = False

    def watch(self) -> None:
        """From now on the transaction is the engine's: SQLite's driver refuses to end it, psycopg notes that it
        ended.
        """
        if isinstance(self._driver, sqlite3.Connection):
            self._driver.set_authorizer(self._permit)
        else:
            self._driver.left_transaction = False

    def _permit(self, action: int, *_given: Any) -> int:
        if action != sqlite3.SQLITE_TRANSACTION:
            return sqlite3.SQLITE_OK
        self.refused = True
        return sqlite3.SQLITE_DENY

    def free(self) -> None:
        """The engine may end the transaction."""
        if isinstance(self._driver, sqlite3.Connection):
            with contextlib.suppress(sqlite3.Error):  # it is closed
                self._driver.set_authorizer(None)
        else:
            self._driver.left_transaction = None

    def note(self) -> None:
        """Count who holds the driver's connection, before a body could take it."""
        self._references = self._count()

    def _count(self) -> int:
        inner = getattr(self._driver, "pgconn", None)
        return sys.getrefcount(self._driver) + (0 if inner is None else sys.getrefcount(inner))

    @property
    def ended(self) -> bool:
        """Whether the body ended the transaction below SQLAlchemy."""
        if isinstance(self._driver, sqlite3.Connection):
            return not self._driver.in_transaction
        return bool(self._driver.left_transaction)

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return not isinstance(self._driver, sqlite3.Connection) and bool(self._driver.closed)

    @property
    def failed(self) -> bool:
        """Whether a statement has failed in PostgreSQL's transaction, which takes no other now."""
        if isinstance(self._driver, sqlite3.Connection):
            return False
        return self._driver.info.transaction_status.name == "INERROR"  # type: ignore[no-any-return]  # a name

    def give_back(self) -> None:
        """To the pool, or, where somebody still holds the driver's connection, closed: what they write from now on must
        not come into others' transactions.
        """
        if self._lasting:
            self._connection.close()
            return
        if self._connection.closed:  # by the stage, so that the pool has it already, and the stage may have it too
            if not isinstance(self._driver, sqlite3.Connection):
                self._close()
            return
        if self.discard or self._count() > self._references:
            self._close()
            self._connection.invalidate()
        self._connection.close()

    def _close(self) -> None:
        lock: Any = getattr(self._driver, "lock", None)  # psycopg's, held by a thread as long as its statement runs
        held = lock.acquire(timeout=LOCK_SECONDS) if lock is not None else False
        try:
            self._driver.close()
        finally:
            if held:
                lock.release()
