"""The engine's database in memory: one SQLite connection with real transactions, reached with as little Python as can
be.

The statements are the engine's own, compiled by SQLAlchemy; only the way from there to the driver is shorter: each
shape of statement is compiled once for all seeds, and rows are plain named tuples.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from stageflow_durable.state import definitions
from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.database import Database, translated
from stageflow_durable.state.metadata import PREFIX, metadata
from tests.protocol.invariants import SeenInSql

_make: Any = sqlite.dialect  # its constructor has no types
DIALECT = _make(paramstyle="qmark")
DIALECT.dbapi = sqlite3


class Listed(list[Any]):
    """Values that are all read already."""

    def all(self) -> list[Any]:
        return self


class Answer:
    """The rows of one statement, read already, and made what they are asked to be."""

    __slots__ = ("_found", "_prepared", "rowcount")

    def __init__(self, prepared: Prepared, found: Sequence[Any], rowcount: int) -> None:
        self._prepared = prepared
        self._found = found
        self.rowcount = rowcount

    def __iter__(self) -> Iterator[Any]:
        return iter(self._prepared.rows(self._found))

    def first(self) -> Any:
        return next(iter(self._prepared.rows(self._found[:1])), None)

    def one_or_none(self) -> Any:
        assert len(self._found) < 2, "more than one row"
        return self.first()

    def one(self) -> Any:
        assert len(self._found) == 1, f"{len(self._found)} rows, not one"
        return self.first()

    def all(self) -> list[Any]:
        return self._prepared.rows(self._found)

    def scalars(self) -> Listed:
        return Listed([row[0] for row in self])

    def mappings(self) -> Listed:
        return Listed(self._prepared.mappings(self._found))

    def scalar_one(self) -> Any:
        return self.one()[0]

    def scalar_one_or_none(self) -> Any:
        row = self.one_or_none()
        return None if row is None else row[0]

    def scalar(self) -> Any:
        row = self.first()
        return None if row is None else row[0]


class Prepared:
    """One compiled shape: its text, where each parameter comes from, and the type of its rows."""

    def __init__(self, element: Any, names: list[str] | None, extracted: Sequence[Any]) -> None:
        compiled = element.compile(dialect=DIALECT, column_keys=names)
        places = {parameter.key: place for place, parameter in enumerate(extracted)}
        self.sql = str(compiled)
        self._expanding = {compiled.bind_names[found] for found in compiled.post_compile_params}
        named = {name: parameter for parameter, name in compiled.bind_names.items()}
        self._sources = [
            (name, named[name].key, places.get(named[name].key), named[name]) for name in compiled.positiontup
        ]
        columns = compiled._result_columns or []
        self._names = [column.keyname for column in columns]
        row: Any = namedtuple("Row", self._names, rename=True) if columns else None
        self.answers = row is not None
        self._made = partial(tuple.__new__, row)  # ``_make``, without a call of Python
        self._booleans = [place for place, column in enumerate(columns) if isinstance(column.type, Boolean)]

    def bound(self, given: Mapping[str, Any], extracted: Sequence[Any]) -> tuple[str, list[Any]]:
        """The text, with every ``IN`` written out, and its parameters."""
        values = [
            given[key] if key in given else (parameter if place is None else extracted[place]).effective_value
            for _name, key, place, parameter in self._sources
        ]
        return self._expanded(values) if self._expanding else (self.sql, values)

    def _expanded(self, values: list[Any]) -> tuple[str, list[Any]]:
        sql, flat = self.sql, []
        for (name, *_rest), value in zip(self._sources, values, strict=True):
            listed = list(value) if name in self._expanding else [value]
            flat += listed
            if name in self._expanding:
                marks = ", ".join("?" * len(listed)) or "SELECT 1 WHERE 1 != 1"
                sql = sql.replace(f"__[POSTCOMPILE_{name}]", marks)
        return sql, flat

    def rows(self, found: Sequence[Any]) -> list[Any]:
        """Named tuples."""
        return list(map(self._made, map(self._with_booleans, found) if self._booleans else found))

    def mappings(self, found: Sequence[Any]) -> list[dict[str, Any]]:
        """The same as dicts."""
        return [dict(zip(self._names, self._with_booleans(row), strict=True)) for row in found]

    def _with_booleans(self, row: Any) -> Any:
        if not self._booleans:
            return row
        cells = list(row)
        for place in self._booleans:
            cells[place] = None if cells[place] is None else bool(cells[place])
        return cells


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
            for one in given[:-1]:
                self.execute(element, one)
            given = given[-1]
        given = given or {}
        prepared, extracted = self._prepared(element, given)
        sql, values = prepared.bound(given, extracted)
        try:
            cursor = self._raw.execute(sql, values)
            found = cursor.fetchall() if prepared.answers else ()
        except sqlite3.Error as error:
            raise DBAPIError.instance(sql, values, error, sqlite3.Error) from error
        return Answer(prepared, found, cursor.rowcount)

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
    """``Database.read``, without a generator's cost; one for all times, since nothing is kept from one to the next."""

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
        self._raw.execute("BEGIN IMMEDIATE")  # SQLite refuses a transaction within a transaction
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._raw.execute("COMMIT")
            return
        self._raw.execute("ROLLBACK")
        super().__exit__(kind, error, trace)


RUN_OF = {"runs": "id", "strands": "run", "attempts": "run", "checkpoints": "run", "events": "run"}
"""Where a row of these tables says of which run it is."""


class MemoryDatabase(Database, SeenInSql):
    """A database in memory, for one seed after another. ``written``: the runs of which a row was written, or nearly:
    what was rolled back counts too.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__("sqlite://", clock=clock)
        SeenInSql.__init__(self, self)
        self.raw = sqlite3.connect(":memory:", check_same_thread=False, cached_statements=1000)
        self.raw.isolation_level = None
        self.raw.create_function(SQLITE_CLOCK, 0, self._time)
        self.raw.execute("PRAGMA foreign_keys = ON")
        for table in metadata.sorted_tables:
            # An index that is not unique only makes it quick, which few rows are anyway.
            assert not any(index.unique for index in table.indexes)
            self.raw.execute(str(CreateTable(table).compile(dialect=DIALECT)))
        connection = Connection(self.raw)
        self._reading, self._writing = _Reading(connection), _Transaction(connection, self.raw)
        self.written: set[str] = set()
        self._tell_what_is_written()
        self._of_runs = {PREFIX + table for table in RUN_OF}
        self._filled: set[str] = set()
        self._tell_what_is_filled()

    def _tell_what_is_written(self) -> None:
        self.raw.create_function("written", 1, self.written.add)
        for table, run in RUN_OF.items():
            for verb, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
                self.raw.execute(
                    f"CREATE TEMP TRIGGER {verb}_{table} AFTER {verb} ON {PREFIX}{table} "
                    f"BEGIN SELECT written({row}.{run}); END"
                )

    def _tell_what_is_filled(self) -> None:
        self.raw.create_function("filled", 1, self._filled.add)
        for name in metadata.tables.keys() - self._of_runs:
            self.raw.execute(
                f"CREATE TEMP TRIGGER fill_{name} AFTER INSERT ON {name} BEGIN SELECT filled('{name}'); END"
            )
        self._emptying = {table.name: f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)}

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
        for table, emptying in self._emptying.items():
            if table in self._filled or table in self._of_runs:
                self.raw.execute(emptying)
        self.raw.execute("COMMIT")
        self.written.clear()
        self._filled.clear()

    def transaction(self) -> Any:
        """One transaction."""
        return self._writing

    def read(self) -> Any:
        """Reading alone."""
        return self._reading

    def beaten(self, owner: str | None, expires_at: float) -> None:
        """As the heartbeats left it that are not made one by one."""
        sql = "UPDATE stageflow_owners SET expires_at = max(expires_at, ?) WHERE id = ? AND dead_at IS NULL"
        self.raw.execute(sql, (expires_at, owner))

    # --- what a checker reads, past the engine ------------------------------------------------------------------------

    def see(self, table: str, run: str | None = None) -> list[Any]:
        """The rows of a table, or those of one run."""
        every, of_run, made = _SEEN[table]
        found = self.raw.execute(every) if run is None else self.raw.execute(of_run, (run,))
        return list(map(made, found.fetchall()))

    def count_of_events(self, run: str) -> int:
        """Those of the run itself, without its items'."""
        of_run = f"SELECT count(*) FROM {PREFIX}events WHERE run = ? AND item = 0"
        count: int = self.raw.execute(of_run, (run,)).fetchone()[0]
        return count

    @property
    def changes(self) -> int:
        """How many rows were written so far: whether any was since another look."""
        return self.raw.total_changes

    def begun(self) -> None:
        """What a process remembers of a database that was another seed's."""
        definitions._CACHE.clear()


def _seen(table: str) -> tuple[str, str, Any]:
    columns = [column.name for column in metadata.tables[PREFIX + table].c]
    every = f"SELECT {', '.join(columns)} FROM {PREFIX}{table}"
    make: Any = namedtuple  # its names are known only now
    row = make("Row", columns)
    return every, f"{every} WHERE {RUN_OF.get(table, 'run')} = ?", partial(tuple.__new__, row)


_SEEN = {
    table: _seen(table)
    for table in (*RUN_OF, "saga_steps", "owners", "items", "item_groups", "approvals", "calls", "slots")
}
