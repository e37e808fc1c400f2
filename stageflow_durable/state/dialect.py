"""The one place where the two databases need different constructs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from operator import itemgetter
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, String, Table, any_, func, literal, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

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


def among(connection: Connection, column: Column[str], values: Sequence[str]) -> ColumnElement[bool]:
    """Whether a column of text is one of many values. They are one parameter: as one each they would be written into
    the statement, and it would be planned, anew each time.
    """
    if connection.dialect.name == "postgresql":
        return column == any_(literal(list(values), postgresql.ARRAY(String)))
    return column.in_(select(func.json_each(json.dumps(list(values))).table_valued("value").c.value))


class not_along(FunctionElement[Any]):  # noqa: N801  # it reads as a function, as SQLAlchemy's own do
    """A column by which rows are narrowed down, but along whose index they are not to be looked for: SQLite has no
    statistics, and may follow the index that has nearly all rows. PostgreSQL knows better.
    """

    inherit_cache = True
    type = String()


@compiles(not_along)
def _as_it_is(element: Any, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.clauses, **options)}"


@compiles(not_along, "sqlite")
def _without_index(element: Any, compiler: Any, **options: Any) -> str:
    return f"+{compiler.process(element.clauses, **options)}"


def skip_locked(statement: Any) -> Any:
    """Rows that no other transaction has locked, locked for this one; SQLite has one writer anyway and ignores it."""
    return statement.with_for_update(skip_locked=True)
