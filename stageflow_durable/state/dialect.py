"""The one place where the two databases need different constructs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Any

from sqlalchemy import ColumnElement, Connection, String, Table, literal_column
from sqlalchemy.dialects import postgresql, sqlite

_make: Any = sqlite.dialect  # its constructor has no types
SQLITE = _make(paramstyle="qmark")
"""With parameters by place: by name its driver looks each of them up at every call, which costs as much as the rest."""


def by_place(compiled: Any) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    """Of parameters by name makes those of a statement that was compiled for :data:`SQLITE`."""
    names: Sequence[str] = compiled.positiontup
    if len(names) > 1:
        return itemgetter(*names)
    if not names:
        return lambda _given: ()
    (name,) = names
    return lambda given: (given[name],)


def insert_for(connection: Connection, table: Table) -> Any:
    """An INSERT with ``on_conflict_…`` for the connection's database."""
    return (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(table)


def constant(state: StrEnum) -> ColumnElement[str]:
    """A state as a literal in the statement's text: a plan that is made once for all values of a parameter could not
    use an index of the rows in that state.
    """
    return literal_column(f"'{state.value}'", String)


def skip_locked(statement: Any) -> Any:
    """Rows that no other transaction has locked, locked for this one; SQLite has one writer anyway and ignores it."""
    return statement.with_for_update(skip_locked=True)
