"""Listening on PostgreSQL: a connection of its own, on which the server says which runs changed."""

from __future__ import annotations

import select
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.state.awaited import CHANNEL
from stageflow_durable.state.database import Database
from stageflow_durable.state.pool import opened
from stageflow_durable.state.trouble import translated


class Listening:
    """One channel. Used by one thread."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._line = select.poll()
        self._line.register(connection.fileno(), select.POLLIN)

    def heard(self, seconds: float) -> list[str]:
        """What was said, waited for that long. Raises StoreUnavailable: the connection is lost, and what was said since
        with it.
        """
        found: list[str] = []
        try:
            self._line.poll(max(0.0, seconds) * 1000)
            server = self._connection.pgconn
            server.consume_input()
            while (told := server.notifies()) is not None:
                found.append(told.extra.decode())
        except Exception as error:  # psycopg's, of a connection that is gone; there is no statement that could be wrong
            raise StoreUnavailable(f"the connection that listens was lost: {type(error).__name__}") from error
        return found

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def listening(database: Database, token: str) -> Listening | None:
    """Listen for a token. None where that is not possible: on SQLite, and behind a pooler, which gives each statement
    another connection. Raises StoreUnavailable.
    """
    if database.is_sqlite or database.pooled:
        return None
    try:
        with translated():
            connection = opened(database)
    except SQLAlchemyError as error:
        raise StoreUnavailable(f"no connection to listen on: {type(error).__name__}") from error
    if connection.prelude is not None:  # a pooler after all
        connection.close()
        return None
    try:
        # The channel is the engine's constant with hexadecimal digits behind it.
        connection.execute(f'LISTEN "{CHANNEL}{token}"', prepare=False)
    except Exception as error:  # psycopg's
        connection.close()
        raise StoreUnavailable(f"PostgreSQL did not listen: {type(error).__name__}") from error
    return Listening(connection)
