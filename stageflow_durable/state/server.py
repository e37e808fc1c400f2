"""What a database server says of itself, for ``doctor``: encoding, clock, connections."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select, text

from stageflow_durable.state.clock import now
from stageflow_durable.state.database import Database


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """``ahead``: by how many seconds the server's clock is ahead of this machine's. ``encoding``: of the database.
    ``most``: connections that everybody may have together, those kept for its administrators left out; ``used``: how
    many there are, ``ours`` among them. ``pooled``: whether a pooler stands before it.
    """

    ahead: float
    encoding: str
    most: int
    used: int
    ours: int
    pooled: bool


_POSTGRESQL = text(
    """
    SELECT pg_encoding_to_char(d.encoding) AS encoding,
           (SELECT count(*) FROM pg_stat_activity
             WHERE coalesce(backend_type, 'client backend') = 'client backend' AND datid IS NOT NULL) AS used,
           (SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stageflow') AS ours,
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
             - coalesce(current_setting('reserved_connections', true)::int, 0) AS server,
           d.datconnlimit AS database, r.rolconnlimit AS role
    FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user
    """
)


def server_facts(url: str) -> ServerFacts | None:
    """Ask the server of a database; None for SQLite, which has none. Raises StoreUnavailable."""
    if url.startswith("sqlite"):
        return None
    database = Database(url)
    try:
        with database.read() as connection:
            return _asked(connection, database.pooled)
    finally:
        database.dispose()


def _asked(connection: Connection, pooled: bool) -> ServerFacts:
    before = time.time()
    at: float = connection.execute(select(now())).scalar_one()
    after = time.time()
    row: Any = connection.execute(_POSTGRESQL).one()
    limits = [limit for limit in (row.server, row.database, row.role) if limit >= 0]
    return ServerFacts(at - (before + after) / 2, row.encoding, min(limits), row.used, row.ours, pooled)
