"""Prepared statements sent to PostgreSQL with nothing in between but libpq, by psycopg's own binding of it.

A stage is one statement, and psycopg's cursor costs more CPU around it than the engine does: each call makes a cursor,
looks up how to write each parameter and how to read what comes back. Both are known here when the statement is
compiled. See "pq" in psycopg's documentation.
"""

from __future__ import annotations

import hashlib
import select
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Boolean, Double, Integer
from sqlalchemy.dialects import postgresql

from stageflow_durable.state.bounded import ANSWER_SECONDS, silence

Rows: TypeAlias = list[tuple[Any, ...]]

_TEXT = 25


class ServerStatement:
    """One statement, compiled, under a name that is the hash of its text and types: where two connections turn out to
    be one, as behind a pooler, a name means one statement still. Parameters that the caller does not give keep the
    values they were written with.
    """

    __slots__ = ("_columns", "_order", "name", "sql", "types")

    def __init__(self, element: Any) -> None:
        made: Any = postgresql.dialect  # its constructor has no types
        compiled = element.compile(dialect=made(paramstyle="numeric_dollar"))
        self.sql = str(compiled).encode()
        kinds = [_kind(compiled.binds[name].type) for name in compiled.positiontup]
        self.types = [oid for oid, _written in kinds]
        said = self.sql + repr(self.types).encode()
        self.name = b"stageflow_" + hashlib.sha256(said).hexdigest()[:32].encode()
        self._order = [
            (name, compiled.params[name], written)
            for name, (_oid, written) in zip(compiled.positiontup, kinds, strict=True)
        ]
        self._columns = tuple(enumerate(_reader(column.type) for column in element.exported_columns))

    def values(self, given: Mapping[str, Any]) -> list[bytes | None]:
        """The parameters as they are sent: text, in their order. Raises psycopg's DataError."""
        values = [
            None if (value := given.get(name, default)) is None else written(value)
            for name, default, written in self._order
        ]
        if b"\0" in b"".join(filter(None, values)):  # libpq would send what comes before it
            from psycopg import DataError

            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return values

    def rows(self, answer: Any) -> Rows:
        """The rows of an answer, as far as they are known columns: those of a SELECT or a RETURNING."""
        columns, value = self._columns, answer.get_value
        return [
            # By way of a list, which takes less than a generator: a run has many columns.
            tuple([None if (sent := value(row, number)) is None else read(sent) for number, read in columns])
            for row in range(answer.ntuples)
        ]


class RawConnection:
    """One connection of psycopg, used below its cursors, while it is in no transaction."""

    def __init__(self, connection: Any) -> None:
        from psycopg import pq

        self._good = (int(pq.ExecStatus.COMMAND_OK), int(pq.ExecStatus.TUPLES_OK))
        self._pg = connection.pgconn
        self._encoding = connection.info.encoding
        self._known: set[bytes] = set()
        self._reading, self._writing = select.poll(), select.poll()
        self._reading.register(connection.fileno(), select.POLLIN)
        self._writing.register(connection.fileno(), select.POLLIN | select.POLLOUT)

    def touched(self, statement: ServerStatement, given: Mapping[str, Any]) -> int:
        """Run it in a transaction of its own; returns how many rows it touched. Raises psycopg's errors."""
        return self._answer(statement, given).command_tuples or 0

    def rows(self, statement: ServerStatement, given: Mapping[str, Any]) -> Rows:
        """Run it in a transaction of its own; returns its rows. Raises psycopg's errors."""
        return statement.rows(self._answer(statement, given))

    def _answer(self, statement: ServerStatement, given: Mapping[str, Any]) -> Any:
        values = statement.values(given)
        if statement.name not in self._known:
            self._ask(self._pg.send_prepare, statement.name, statement.sql, statement.types)
            self._known.add(statement.name)
        return self._ask(self._pg.send_query_prepared, statement.name, values)

    def _ask(self, send: Callable[..., None], *given: object) -> Any:
        send(*given)
        while self._pg.flush():  # more than the socket takes at once
            self._wait(self._writing)
            self._pg.consume_input()
        while self._pg.is_busy():
            self._wait(self._reading)
            self._pg.consume_input()
        answer = self._pg.get_result()
        while self._pg.get_result() is not None:  # the end of the answer is an answer too
            pass
        if answer.status not in self._good:
            from psycopg import errors

            raise errors.error_from_result(answer, encoding=self._encoding)
        return answer

    @staticmethod
    def _wait(line: select.poll) -> None:
        if not line.poll(ANSWER_SECONDS * 1000):
            raise silence(ANSWER_SECONDS)


def _kind(kind: Any) -> tuple[int, Callable[[Any], bytes]]:
    for known, oid, written in _WRITTEN:
        if isinstance(kind, known):
            return oid, written
    return _TEXT, str.encode


def _reader(kind: Any) -> Callable[[bytes], Any]:
    for known, read in _READ:
        if isinstance(kind, known):
            return read
    return bytes.decode


_WRITTEN: tuple[tuple[type, int, Callable[[Any], bytes]], ...] = (
    (Boolean, 16, lambda value: b"t" if value else b"f"),
    (BigInteger, 20, lambda value: b"%d" % value),
    (Integer, 23, lambda value: b"%d" % value),
    (Double, 701, lambda value: b"%r" % value),
)
"""Types, what PostgreSQL calls them (pg_type.oid), and how their values are written."""

_READ: tuple[tuple[type, Callable[[bytes], Any]], ...] = (
    (Boolean, lambda sent: sent == b"t"),
    (Integer, int),
    (Double, float),
)
"""The same types, and how their values are read."""
