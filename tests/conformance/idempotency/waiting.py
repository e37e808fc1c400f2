"""Waiting until a statement waits."""

from __future__ import annotations

from sqlalchemy import text

from stageflow_durable.state.database import Database
from tests.services.process import eventually

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")


def until_somebody_waits(database: Database) -> None:
    """Until a statement on this PostgreSQL waits for a lock."""

    def somebody() -> bool:
        with database.read() as connection:  # a new transaction: within one, the view does not change
            return bool(connection.execute(_WAITING).scalar_one())

    eventually(somebody, what="a statement waits for a lock")
