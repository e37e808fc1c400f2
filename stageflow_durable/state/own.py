"""A connection below SQLAlchemy: opened by its pool, counted by it no longer, closed with whatever holds it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any

from stageflow_durable.state.database import Database
from stageflow_durable.state.line import Line
from stageflow_durable.state.wire import Wire


def opened(database: Database) -> Any:
    """A connection of the driver's, autocommitting."""
    pooled: Any = database.engine.raw_connection()
    connection = pooled.driver_connection
    pooled.detach()
    if not database.is_sqlite:  # there it is so already
        connection.autocommit = True
    return connection


class Own:
    """This process's ``connection``, used by one thread at a time."""

    def __init__(self, connection: Any, *, is_sqlite: bool) -> None:
        self.connection = connection
        self._pid = os.getpid()
        self._line = None if is_sqlite else Line(connection.fileno())

    @cached_property
    def wire(self) -> Wire:
        """The same connection, below psycopg's cursors."""
        return Wire(self.connection)

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
