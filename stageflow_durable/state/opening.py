"""Opening a connection to PostgreSQL: what the server has to be told, and how, where a pooler stands between.

A server keeps what it is told as a connection opens. A pooler (PgBouncer, RDS Proxy, pgcat, …) in transaction mode
gives each transaction another server connection: what was said at the opening is refused or lost, and what was prepared
is another process's. So a pooler is found out at the opening; what was to be said then is said in each transaction, and
nothing is prepared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import URL

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.state.bounded import BoundedConnection, connection_class

CONNECT_SECONDS = 5
STATEMENT_MILLISECONDS = 15_000
IDLE_MILLISECONDS = 5_000
"""A process that was paused inside a transaction holds up everybody who needs its rows; a stage's own session may
take longer.
"""
BOUNDS = {
    "statement_timeout": f"{STATEMENT_MILLISECONDS}",
    "lock_timeout": f"{STATEMENT_MILLISECONDS}",
    "idle_in_transaction_session_timeout": f"{IDLE_MILLISECONDS}",
}
_ISOLATION = {"default_transaction_isolation": "read committed"}  # of what commits by itself, SQLAlchemy is silent

_REFUSED_AT_OPENING = re.compile(r"unsupported startup parameter|command-line options", re.IGNORECASE)
"""What PgBouncer and RDS Proxy say of ``options``."""

_WORD = re.compile(r"(?:\\.|[^\\\s])+")
_ESCAPED = re.compile(r"\\(.)")


def arguments(url: URL, prepares: bool) -> dict[str, Any]:
    """What libpq and psycopg are told besides the URL.

    A half-open connection or a stopped server has to show within bounded time, never hang a worker. What the URL says
    of it is the user's; of its options (a search_path, say) only what ours do not set.
    """
    bounds: dict[str, Any] = {
        "connect_timeout": CONNECT_SECONDS,
        "tcp_user_timeout": STATEMENT_MILLISECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "application_name": "stageflow",
    }
    ours = " ".join(f"-c {name}={_escaped(value)}" for name, value in (BOUNDS | _ISOLATION).items())
    return {name: value for name, value in bounds.items() if name not in url.query} | {
        "prepare_threshold": 2 if prepares else None,
        "client_encoding": "utf8",  # what goes below psycopg's cursors is, whatever PGCLIENTENCODING says
        "options": " ".join((*url.normalized_query.get("options", ()), ours)),
    }


def settings_of(options: str) -> dict[str, str]:
    """The settings that libpq's ``options`` name (``-c name=value --name=value``). Raises ConfigurationError where it
    holds anything else, which no transaction could say.
    """
    words = [_ESCAPED.sub(r"\1", word) for word in _WORD.findall(options)]
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        setting = words.pop(0) if word == "-c" and words else word.removeprefix("-c").removeprefix("--")
        name, equals, value = setting.partition("=")
        if not equals or not word.startswith(("-c", "--")):
            raise ConfigurationError(
                f"STAGEFLOW_DATABASE_URL: of options= a pooler takes only -c name=value, not {word!r}"
            )
        found[name.replace("-", "_")] = value
    return found


def prelude(options: str) -> str:
    """The statement by which a transaction over a pooler says what ``options`` would have said at the opening."""
    # A transaction has begun by now: how it is isolated was said with its BEGIN.
    settings = {name: value for name, value in settings_of(options).items() if name not in _ISOLATION}
    return "SELECT " + ", ".join(f"set_config({_literal(n)}, {_literal(v)}, true)" for n, v in settings.items())


def connected(given: Any, options: Mapping[str, Any], *, pooled: bool) -> BoundedConnection:
    """A connection to the server, or over a pooler (``pooled``: one was met before). Raises psycopg's errors."""
    from psycopg import OperationalError

    if pooled:
        return _over_pooler(given, options)
    try:
        made: BoundedConnection = connection_class().connect(*given, **options)
    except OperationalError as error:
        if not _REFUSED_AT_OPENING.search(str(error)):
            raise
        return _over_pooler(given, options)
    if _is_pooled(made):
        _mark(made, options["options"])
    return made


def _over_pooler(given: Any, options: Mapping[str, Any]) -> BoundedConnection:
    told = {name: value for name, value in options.items() if name != "options"}
    made: BoundedConnection = connection_class().connect(*given, **told)
    _mark(made, options["options"])
    return made


def _is_pooled(connection: BoundedConnection) -> bool:
    """Whether the server at work is another than the one that let us in: a pooler answers with a number of its own."""
    connection.autocommit = True
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    connection.autocommit = False
    return row is not None and row[0] != connection.pgconn.backend_pid


def _mark(connection: BoundedConnection, options: str) -> None:
    connection.prelude = prelude(options)
    connection.prepare_threshold = None  # its names are each process's own: one would execute what another prepared


def _escaped(value: str) -> str:
    return re.sub(r"([\\\s])", r"\\\1", value)


def _literal(text: str) -> str:
    # psycopg's own needs a connection. A backslash is no escape: standard_conforming_strings is on where poolers are.
    return "'" + text.replace("'", "''") + "'"
