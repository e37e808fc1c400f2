"""What a database's errors mean to the engine: it is away, it is busy, it refuses, its schema is behind.

None of them is ever a stage's: the message stays, the run waits, and whoever reads the text knows what to do. What a
value or a row broke (SQLSTATE classes 22 and 23) is left to whoever gave it.
"""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from stageflow_durable.errors import (
    ConfigurationError,
    RunBusy,
    SchemaBehind,
    StageflowError,
    StoreRefused,
    StoreUnavailable,
)
from stageflow_durable.masking import masked
from stageflow_durable.state.metadata import PREFIX

POOL_SECONDS = 15
"""How long a thread waits for one of the connections that others use: as long as a statement of theirs may take."""


class _Translated:  # not a generator: it is around every statement of a stage's path
    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, PoolTimeout):
            raise none_free(POOL_SECONDS) from error
        if isinstance(error, DBAPIError) and (ours := _ours(error)) is not None:
            raise ours from error


_TRANSLATED = _Translated()


def translated() -> _Translated:
    """Turn a driver's errors about reachability, rights and schema into ours."""
    return _TRANSLATED


def none_free(seconds: float) -> StoreUnavailable:
    """The error of a thread that waited that long in vain."""
    return StoreUnavailable(f"no database connection was free within {seconds:g} s; is the database overloaded?")


def refused(error: BaseException) -> StoreRefused:
    """An error of the engine's own statement that nothing here knows, as what it is: the engine's."""
    return StoreRefused(f"the database refused a statement of the engine: {_first_line(error)}")


def _ours(error: DBAPIError) -> StageflowError | None:
    # A body's session may miss a table of its own, which no upgrade of ours brings, or have no right on it. Our own way
    # to the driver has no statement here.
    text = str(error.orig)
    is_ours = PREFIX in text or PREFIX in (error.statement or PREFIX)
    if isinstance(error.orig, sqlite3.Error):
        return _of_sqlite(error.orig, is_ours)
    return _of_postgresql(error, is_ours)


# --- SQLite -----------------------------------------------------------------------------------------------------------

_NO_DATABASE = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_OF_VALUES = frozenset(
    {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE}
)
_HINTS = {
    sqlite3.SQLITE_CANTOPEN: "it, or its directory, is not there or belongs to another user",
    sqlite3.SQLITE_READONLY: "this user may not write it, or its directory (SQLite writes files beside it)",
    sqlite3.SQLITE_PERM: "this user may not open it",
    sqlite3.SQLITE_FULL: "its disk is full: make room",
    sqlite3.SQLITE_IOERR: "its disk, or a network's file system, failed",
}


def _of_sqlite(error: sqlite3.Error, is_ours: bool) -> StageflowError | None:
    text = _first_line(error)
    if is_ours and any(sign in text for sign in ("no such table", "no such column", "has no column named")):
        return SchemaBehind(f"{text}; run: stageflow db upgrade")
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code & 0xFF in _OF_VALUES:
        return None  # without a code it is the module's own: a wrong call, a value that it cannot bind
    if code & 0xFF == sqlite3.SQLITE_ERROR:  # the statement is wrong, which SQLite calls operational too
        return refused(error) if is_ours else None
    return _of_file(error, code & 0xFF, text)


def _of_file(error: sqlite3.Error, code: int, text: str) -> StageflowError | None:
    if code in _NO_DATABASE:
        return StoreUnavailable(f"the database's file cannot be read: {text}")
    if hint := _HINTS.get(code):
        return StoreUnavailable(f"the database's file: {text}; {hint}")
    return StoreUnavailable(f"the database did not answer: {text}") if is_operational(error) else None


def is_full(error: BaseException) -> bool:
    """Whether PostgreSQL, or a pooler, has no connection left just now. Before one is open there is only the text."""
    return is_operational(error) and any(sign in str(error) for sign in _FULL)


def is_operational(error: BaseException) -> bool:
    """Whether a driver says that it is the database's state, not the statement."""
    return any(kind.__name__ == "OperationalError" for kind in type(error).__mro__)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------

_BUSY = {"55P03": "somebody else holds the row", "57014": "the statement was given up"}
_AWAY = frozenset({"25006", "25P03", "57P01", "57P02", "57P03"})
"""Read-only after a failover, idle too long, shutting down."""
_SCHEMA = frozenset({"42P01", "42703"})  # undefined_table, undefined_column
_VALUES = ("22", "23")

_BY_STATE = {
    "25006": "it is read-only: a standby, or default_transaction_read_only is on; name the primary in the URL",
    "53100": "its disk is full: make room there",
    "53200": "it is out of memory",
    "53300": "raise max_connections, or run fewer processes (docs/how-to/deploy.md counts their connections)",
    "57P03": "it is starting, stopping or recovering",
}
_RIGHTS = "42501"
_STATEMENT_MODE = "statement pooling mode"
_MISSPELT = re.compile(
    r"invalid connection option|for connection option|bad value for"
    r"|^(?:connection is bad: )?(?:invalid |.* value .* invalid)"
)
_FULL = ("too many clients", "too many connections", "remaining connection slots", "no more connections allowed")
_BY_TEXT = (
    (_STATEMENT_MODE, "set the pooler's pool_mode to transaction or session: the engine needs transactions"),
    ("password authentication failed", "check user and password in STAGEFLOW_DATABASE_URL"),
    ('" does not exist', "create it, or correct its name in STAGEFLOW_DATABASE_URL"),
    ("no password supplied", "STAGEFLOW_DATABASE_URL names no password"),
    ("server does not support SSL", "the URL's sslmode asks for it"),
    ("no encryption", "it asks for SSL: add ?sslmode=require to STAGEFLOW_DATABASE_URL"),
    ("no pg_hba.conf entry", "its pg_hba.conf does not let this host, user or database in"),
    ("too many", _BY_STATE["53300"]),
    ("remaining connection slots", _BY_STATE["53300"]),
    ("no more connections allowed", "raise the pooler's max_client_conn"),
    ("query_wait_timeout", "the pooler had no server connection free: raise its default_pool_size"),
)


def _of_postgresql(error: DBAPIError, is_ours: bool) -> StageflowError | None:
    orig: BaseException = error.orig or error
    text, state = _first_line(orig), getattr(orig, "sqlstate", None) or ""
    if state in _BUSY:
        return RunBusy(f"{_BUSY[state]}: {text}")
    if not state and _MISSPELT.search(text):
        return misspelt(text)
    if is_operational(orig) or error.connection_invalidated or state in _AWAY:
        return StoreUnavailable(f"the database did not answer: {text}{_hint(state, text)}")
    return _of_statement(orig, text, state) if is_ours and state else None


def _of_statement(error: BaseException, text: str, state: str) -> StageflowError | None:
    """Of a statement of the engine's."""
    if state in _SCHEMA:
        return SchemaBehind(f"{text}; run: stageflow db upgrade")
    if state == _RIGHTS:
        return StoreRefused(f"the database refused: {text}; {_grant(text)}")
    return None if state.startswith(_VALUES) else refused(error)


def misspelt(text: str) -> ConfigurationError:
    """What an option of the URL is that libpq does not know, or whose value it does not."""
    known = next((hint for sign, hint in _FOREIGN if sign in text), "leave it out, or correct it")
    return ConfigurationError(f"STAGEFLOW_DATABASE_URL: {text.removeprefix('connection is bad: ')}; {known}")


_FOREIGN = (
    ('"pgbouncer"', "leave it out: a pooler is found out without it"),
    ('"schema"', "write options=-csearch_path%3DNAME instead"),
    ('"currentSchema"', "write options=-csearch_path%3DNAME instead"),
    ('"ssl"', "write sslmode=require instead"),
)


def _grant(text: str) -> str:
    found = re.search(r"for (schema|table|sequence|database) (\S+)", text)
    kind, name = found.groups() if found else ("", "")
    if kind == "schema":
        return f"GRANT USAGE, CREATE ON SCHEMA {name} TO the role (CREATE for `stageflow db upgrade` alone)"
    if kind == "table":
        return f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name}, and the other tables of stageflow, TO the role"
    return "run `stageflow db upgrade` as the owner of the tables, or GRANT the right to the role"


def _hint(state: str, text: str) -> str:
    hint = _BY_STATE.get(state) or next((hint for sign, hint in _BY_TEXT if sign in text), None)
    return f"; {hint}" if hint else ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return masked(text.splitlines()[0]) if text else type(error).__name__
