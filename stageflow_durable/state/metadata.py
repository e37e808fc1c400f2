"""The one MetaData of every table, with names for constraints so that migrations can refer to them.

Names in the database begin with :data:`PREFIX`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Boolean, CheckConstraint, ColumnElement, MetaData, Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.compiler import compiles

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

PREFIX = "stageflow_"
"""What each table's name begins with: an application may keep its own tables in the same database."""

VERSION_TABLE = f"{PREFIX}schema_version"
"""Where Alembic notes our revision; an application's migrations have ``alembic_version``."""

_IN = re.compile(r"(\w+) IN \(([^)]*)\)")


class Condition(ColumnElement[bool]):
    """What a CHECK demands. PostgreSQL reads the parsed text of every CHECK of a table anew for each statement that
    writes to it, and an array is a shorter text than a list: a stage costs the database a tenth less. SQLite builds a
    table of its own from each list, in every statement that writes what the list is about.
    """

    inherit_cache = False
    type = Boolean()

    def __init__(self, sql: str) -> None:
        self.sql = sql


@compiles(Condition)
def _as_written(condition: Condition, _compiler: Any, **_options: Any) -> str:
    return condition.sql


@compiles(Condition, "postgresql")
def _with_arrays(condition: Condition, _compiler: Any, **_options: Any) -> str:
    return _IN.sub(lambda found: f"{found[1]} = ANY ('{{{found[2].replace(chr(39), '')}}}')", condition.sql)


@compiles(Condition, "sqlite")
def _one_by_one(condition: Condition, _compiler: Any, **_options: Any) -> str:
    return _IN.sub(_written_out, condition.sql)


def _written_out(found: re.Match[str]) -> str:
    column, states = found.groups()
    return f"({' OR '.join(f'{column} = {state}' for state in states.split(', '))})"


def tied(table: str, columns: tuple[str, ...], **conditions: str) -> Iterator[CheckConstraint]:
    """CHECKs of what ties columns together. On PostgreSQL they are one, a function of these columns: its text too is
    parsed once a session (the migrations have it).
    """
    for name, sql in conditions.items():
        yield CheckConstraint(Condition(sql), name=name).ddl_if(dialect="sqlite")
    sound = f"{PREFIX}{table}_sound"
    yield CheckConstraint(f"{sound}({', '.join(columns)})", name="sound").ddl_if(dialect="postgresql")


def tie(table: Table, columns: tuple[str, ...], conditions: Mapping[str, str]) -> str:
    """Makes the function of :func:`tied`, for a table that is made without the migrations."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # its constructor has no types
    given = ", ".join(f"{name} {table.c[name].type.compile(dialect)}" for name in columns)
    sound = " AND ".join(f"({Condition(sql).compile(dialect=dialect)})" for sql in conditions.values())
    return (
        f"CREATE OR REPLACE FUNCTION {table.name}_sound({given}) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS "
        f"$$ BEGIN RETURN {sound}; END $$"
    )
