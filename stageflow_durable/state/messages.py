"""An error's text as it may be stored, logged and shown: what the database said, without what it was asked."""

from __future__ import annotations

import re

from sqlalchemy.exc import StatementError

_DRIVERS = frozenset({"psycopg", "psycopg2", "sqlite3", "asyncpg"})
_ASKED = re.compile(r"\s*(\[SQL: |\[parameters: |\nDETAIL:  ).*", re.DOTALL)
_QUOTED = re.compile(r'".*"', re.DOTALL)
_DATA_EXCEPTION = "22"
"""SQLSTATE class of a value that does not fit its column; its message quotes the value."""


def message_of(error: BaseException) -> str:
    """``str(error)`` without SQL statements, their parameters, and the values that a database quotes: each may be a
    secret.

    Of a driver's error only the first line is kept: the others repeat the row. An application's own error that quotes
    one loses the quoted part as well.
    """
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    if not _of_driver(cause):
        return _ASKED.sub("", str(cause))
    text = str(cause)
    if str(getattr(cause, "sqlstate", None) or "").startswith(_DATA_EXCEPTION):
        text = _QUOTED.sub('"…"', text)
    return text.partition("\n")[0]


def is_sql(error: BaseException | None) -> bool:
    """Whether an error, or one behind it, is a database's: its traceback would show what ``message_of`` leaves out."""
    seen: set[int] = set()  # an application may have tied a chain to itself
    while error is not None and id(error) not in seen:
        if isinstance(error, StatementError) or _of_driver(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _of_driver(error: BaseException) -> bool:
    return any(kind.__module__.partition(".")[0] in _DRIVERS for kind in type(error).__mro__)
