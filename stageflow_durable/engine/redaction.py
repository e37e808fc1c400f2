"""An error as it may be stored, logged and shown: what the database said without what it was asked, and only such
tracebacks as can be written.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Iterator
from itertools import islice
from types import TracebackType

from stageflow_durable.masking import masked
from stageflow_durable.retry.look import attribute, is_a, leaves, name_of
from stageflow_durable.retry.look import text as text_of_any

LONGEST = 8_000
"""Characters of an error's text that are looked at: more than is ever kept of it."""

MOST_BEHIND = 1000
"""Of an error's causes, contexts and members, these are looked at."""

_DRIVERS = frozenset({"psycopg", "psycopg2", "sqlite3", "asyncpg"})
# What follows the first line of a database's message repeats the statement, its parameters or the row.
_ASKED = re.compile(r"\[SQL: |\[parameters: |\n(?:DETAIL:  |CONTEXT:  |LINE \d)")
_NAMED = re.compile(r"\((?:psycopg|psycopg2)\.(?:errors\.)?(\w+)\) ")
_QUOTED = re.compile(r'".*"', re.DOTALL)
_DATA_EXCEPTION = "22"
"""SQLSTATE class of a value that does not fit its column; its message quotes the value."""
_OF_A_VALUE = re.compile(
    r"invalid input (?:syntax for type|value for enum) |malformed \w+ literal: |date/time field value out of range: "
    r'|value "[^"]*" is out of range for type '
)
"""How such messages begin, for texts that name neither the error nor its class."""


def message_of(error: BaseException) -> str:
    """``str(error)`` without SQL statements, their parameters, the values that a database quotes, and what URLs in it
    hold of users and passwords: each may be a secret.

    Of a driver's error only the first line is kept: the others repeat the row. An application's own error that quotes
    one loses the quoted part as well.
    """
    orig = attribute(error, "orig") if _of_sqlalchemy(error) else None
    cause = orig if is_a(orig, BaseException) else error
    assert is_a(cause, BaseException)
    text = _said(cause)
    if not _of_driver(cause):
        return masked(_without_values(text, error))
    if _of_data(cause):
        text = _QUOTED.sub('"…"', text)
    return masked(text.partition("\n")[0])


def _said(error: BaseException) -> str:
    """What an error says; one whose own ``__str__`` fails must not take the attempt, and then its process, with it."""
    return text_of_any(error, LONGEST)


def members_of(error: BaseException, most: int) -> str:
    """The errors in a group by name and text, ``most`` of them; empty for an error that is no group."""
    if not is_a(error, BaseExceptionGroup):
        return ""
    named: list[str] = []
    rest = 0
    for one in leaves(error):
        if len(named) < most:
            named.append(f"{name_of(type(one))}: {message_of(one)}".removesuffix(": "))
        else:
            rest += 1
    return "; ".join((*named, *([f"and {rest} more"] if rest else [])))


def _without_values(text: str, error: BaseException) -> str:
    """An application's text, up to where it repeats a statement, or a value that a database refused."""
    quoted = _quoted_value(text, error)
    if quoted is not None:  # the value may hold anything, so that its end cannot be told
        text = f'{text[:quoted]}"…"'
    asked = _ASKED.search(text)
    return text if asked is None else text[: asked.start()].rstrip()


def _quoted_value(text: str, error: BaseException) -> int | None:
    """Where a value stands that a database quotes as not fitting its column; None: nowhere."""
    places = [match.start() for match in _OF_A_VALUE.finditer(text)]
    places += [match.end() for match in _NAMED.finditer(text) if _names_data(match[1])]
    for behind in _chain(error):
        if _of_data(behind):
            places.append(max(text.find(_said(behind).partition('"')[0]), 0))
    quote = text.find('"', min(places)) if places else -1
    return None if quote < 0 else quote


def is_sql(error: BaseException | None) -> bool:
    """Whether an error, one behind it or one in its group is a database's: its traceback would show what
    ``message_of`` leaves out.
    """
    return error is not None and any(_of_sqlalchemy(one) or _of_driver(one) for one in _chain(error))


def is_long(error: BaseException, most: int) -> bool:
    """Whether more than ``most`` errors are behind this one, or in its group."""
    return next(islice(_chain(error), most, None), None) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and all that a traceback may show with it."""
    seen: set[int] = set()  # an application may have tied a chain to itself
    waiting: list[object] = [error]
    while waiting and len(seen) < MOST_BEHIND:
        one = waiting.pop()
        if not is_a(one, BaseException) or id(one) in seen:
            continue
        assert isinstance(one, BaseException)
        seen.add(id(one))
        yield one
        waiting += [attribute(one, name) for name in ("__cause__", "__context__")]
        if is_a(one, BaseExceptionGroup):
            held = attribute(one, "exceptions")
            waiting += held[:MOST_BEHIND] if type(held) is tuple else ()
        if _of_sqlalchemy(one):
            waiting.append(attribute(one, "orig"))


def _of_sqlalchemy(error: BaseException) -> bool:
    """Whether it is an error of SQLAlchemy's about a statement; where that was never imported nothing raised one."""
    kind = getattr(sys.modules.get("sqlalchemy.exc"), "StatementError", None)
    return isinstance(kind, type) and is_a(error, kind)


def _of_driver(error: BaseException) -> bool:
    return any(str(attribute(kind, "__module__")).partition(".")[0] in _DRIVERS for kind in type(error).__mro__)


def _of_data(error: BaseException) -> bool:
    if not _of_driver(error):
        return False  # any other may answer anything, or raise
    state = attribute(error, "sqlstate") or attribute(error, "pgcode") or ""
    return str(state).startswith(_DATA_EXCEPTION)


def _names_data(name: str) -> bool:
    """Whether this is how the driver calls an error of that class; what never was imported raised none."""
    kind = getattr(sys.modules.get("psycopg.errors"), name, None)
    return str(getattr(kind, "sqlstate", None) or "").startswith(_DATA_EXCEPTION) or name == "DataError"


Info = tuple[type[BaseException], BaseException, TracebackType | None]

MOST_LOGGED = 50
"""Of an error with more causes and members behind it no traceback is written."""


def loggable(error: BaseException | None) -> Info | None:
    """``exc_info`` for the log, or None: for a database's error, whose traceback shows what was asked; for one with too
    much behind it; for one that cannot be written.
    """
    if error is None or is_sql(error) or is_long(error, MOST_LOGGED):
        return None
    try:
        trace = BaseException.__dict__["__traceback__"].__get__(error)  # its own class may have another
        # Without its frames, which take ten times as long: those are no code of strangers.
        "".join(traceback.format_exception(type(error), error, trace, limit=0)).encode()
    except BaseException:  # noqa: BLE001  # a stranger's error, whose own code was asked
        return None
    return type(error), error, trace
