"""The engine's database in memory: one SQLite connection with real transactions, reached with as little Python as can
be.

The statements are the engine's own, compiled by SQLAlchemy; only the way from there to the driver is shorter: each
shape of statement is compiled once for all seeds, and rows are plain named tuples.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.database import Database, translated
from stageflow_durable.state.metadata import metadata

_make: Any = sqlite.dialect  # its constructor has no types
DIALECT = _make(paramstyle="named")
DIALECT.dbapi = sqlite3


class Answer(list[Any]):
    """The rows of one statement, read already."""

    def __init__(self, rows: Sequence[Any], rowcount: int) -> None:
        super().__init__(rows)
        self.rowcount = rowcount

    def first(self) -> Any:
        return self[0] if self else None

    def one_or_none(self) -> Any:
        assert len(self) < 2, "more than one row"
        return self[0] if self else None

    def one(self) -> Any:
        assert len(self) == 1, f"{len(self)} rows, not one"
        return self[0]

    def all(self) -> list[Any]:
        return self

    def scalars(self) -> Answer:
        return Answer([row[0] for row in self], self.rowcount)

    def mappings(self) -> list[dict[str, Any]]:
        names = self[0]._fields if self else ()
        return [dict(zip(names, row, strict=True)) for row in self]

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]

    def scalar(self) -> Any:
        return self[0][0] if self else None


class Prepared:
    """One compiled shape: its text, where each parameter comes from, and the type of its rows."""

    def __init__(self, element: Any, names: list[str] | None, extracted: Sequence[Any]) -> None:
        compiled = element.compile(dialect=DIALECT, column_keys=names)
        places = {parameter.key: place for place, parameter in enumerate(extracted)}
        self.sql = str(compiled)
        self.expanding = [compiled.bind_names[found] for found in compiled.post_compile_params]
        self.sources = [
            (name, parameter.key, places.get(parameter.key), parameter)
            for parameter, name in compiled.bind_names.items()
        ]
        columns = compiled._result_columns or []
        row: Any = namedtuple("Row", [column.keyname for column in columns], rename=True) if columns else None
        self.made: Any = None if row is None else partial(tuple.__new__, row)  # ``_make``, without a call of Python
        self.booleans = [place for place, column in enumerate(columns) if isinstance(column.type, Boolean)]

    def values(self, given: Mapping[str, Any], extracted: Sequence[Any]) -> dict[str, Any]:
        return {
            name: given[key] if key in given else (parameter if place is None else extracted[place]).effective_value
            for name, key, place, parameter in self.sources
        }

    def expanded(self, values: dict[str, Any]) -> str:
        """The text with every ``IN`` written out."""
        sql = self.sql
        for name in self.expanding:
            listed = list(values.pop(name))
            names = [f"{name}_{number}" for number in range(len(listed))]
            values.update(zip(names, listed, strict=True))
            sql = sql.replace(
                f"__[POSTCOMPILE_{name}]", ", ".join(f":{one}" for one in names) or "SELECT 1 WHERE 1 != 1"
            )
        return sql

    def rows(self, found: list[Any]) -> list[Any]:
        if not found or self.made is None:
            return found
        if not self.booleans:
            return list(map(self.made, found))
        made = []
        for one in found:
            cells = list(one)
            for place in self.booleans:
                cells[place] = None if cells[place] is None else bool(cells[place])
            made.append(self.made(cells))
        return made


_SHAPES: dict[Any, Prepared] = {}


class Connection:
    """What the engine uses of SQLAlchemy's connection."""

    dialect = DIALECT

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self.connection = SimpleNamespace(dbapi_connection=raw)

    @staticmethod
    def in_transaction() -> bool:
        return True

    def execute(self, element: Any, given: Any = None) -> Answer:
        if isinstance(given, list):
            for one in given:
                self.execute(element, one)
            return Answer((), len(given))
        given = given or {}
        prepared, extracted = self._prepared(element, given)
        values = prepared.values(given, extracted)
        sql = prepared.expanded(values) if prepared.expanding else prepared.sql
        try:
            cursor = self._raw.execute(sql, values)
            found = cursor.fetchall() if prepared.made is not None else ()
        except sqlite3.Error as error:
            raise DBAPIError.instance(sql, values, error, sqlite3.Error) from error
        return Answer(prepared.rows(found) if found else (), cursor.rowcount)

    @staticmethod
    def _prepared(element: Any, given: Mapping[str, Any]) -> tuple[Prepared, Sequence[Any]]:
        names = None if element.is_select else tuple(given)
        kept = element.__dict__.get("_sim")
        if kept is not None and kept[0] == names:
            return kept[1], kept[2]
        key = element._generate_cache_key()
        shape = (key.key, names)
        prepared = _SHAPES.get(shape)
        if prepared is None:
            prepared = _SHAPES[shape] = Prepared(element, None if names is None else list(names), key.bindparams)
        element.__dict__["_sim"] = (names, prepared, key.bindparams)
        return prepared, key.bindparams


class _Reading:
    """``Database.read``, without a generator's cost each time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DBAPIError):
            with translated():
                raise error


class _Transaction(_Reading):
    """``Database.transaction``."""

    def __init__(self, connection: Connection, raw: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._raw = raw

    def __enter__(self) -> Connection:
        assert not self._raw.in_transaction, "a transaction within a transaction"
        self._raw.execute("BEGIN IMMEDIATE")
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._raw.execute("COMMIT" if error is None else "ROLLBACK")
        super().__exit__(kind, error, trace)


class MemoryDatabase(Database):
    """A database in memory, for one seed after another."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__("sqlite://", clock=clock)
        self.raw = sqlite3.connect(":memory:", check_same_thread=False, cached_statements=1000)
        self.raw.isolation_level = None
        self.raw.create_function(SQLITE_CLOCK, 0, self._time)
        self.raw.execute("PRAGMA foreign_keys = ON")
        for table in metadata.sorted_tables:
            self.raw.execute(str(CreateTable(table).compile(dialect=DIALECT)))
            for index in sorted(table.indexes, key=lambda one: str(one.name)):
                index.create(self.engine)
        self._connection = Connection(self.raw)
        self._empty = [f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)]

    def _time(self) -> float:
        return self._clock()  # each seed brings its own

    def _create(self) -> Any:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import StaticPool

        return create_engine("sqlite://", creator=lambda: self.raw, poolclass=StaticPool)

    def use(self, clock: Callable[[], float]) -> None:
        """Begin anew, empty and by another clock."""
        if self.raw.in_transaction:
            self.raw.execute("ROLLBACK")
        self._clock = clock
        self.raw.execute("BEGIN")
        for sql in self._empty:
            self.raw.execute(sql)
        self.raw.execute("COMMIT")

    def transaction(self) -> Any:
        """One transaction."""
        return _Transaction(self._connection, self.raw)

    def read(self) -> Any:
        """Reading alone."""
        return _Reading(self._connection)

    def see(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """What a checker reads, past the engine."""
        return self.raw.execute(sql, values).fetchall()
