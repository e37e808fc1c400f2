"""The one place where the two databases need different constructs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_for(connection: Connection, table: Table) -> Any:
    """An INSERT with ``on_conflict_…`` for the connection's database."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def insert_ignore(connection: Connection, table: Table) -> Any:
    """An INSERT that does nothing where the row is there."""
    return insert_for(connection, table).on_conflict_do_nothing()


def skip_locked(statement: Any) -> Any:
    """Rows that no other transaction has locked, locked for this one; SQLite has one writer anyway and ignores it."""
    return statement.with_for_update(skip_locked=True)
