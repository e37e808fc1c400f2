"""A year of finished runs, by the million: copies of a few that were really carried out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from tests.benchmarks.pipelines import FAILED, PARKED, UNDONE, name_of

YEAR = 365 * 86_400
PIECE = 50_000

LONG = name_of(10)
OLDEST = 10_000
"""So many of the oldest have ten stages: what a prune meets first. The others have one."""

SHARES: Mapping[str, int] = {name_of(1): 979, FAILED.name: 10, UNDONE.name: 10, PARKED.name: 1}
"""The pipelines of the others, of a thousand."""

DEAD_OWNERS = 10_000
"""Processes that ended in that year."""

FIRST = "0" * 26
"""The id of the oldest copy."""

_TABLES = ("runs", "strands", "attempts", "checkpoints", "events", "saga_steps")
_OWNERS = """INSERT INTO stageflow_owners (id, host, pid, boot, started_at, expires_at, dead_at, confirmed)
    SELECT 'past-' || n, 'bench', n, 'past', ended - 3600, ended, ended, true
    FROM (SELECT n, extract(epoch FROM now()) - %s * (1 - n::double precision / %s) AS ended
          FROM generate_series(0, %s - 1) n) past"""
_COPY = """INSERT INTO {table} ({columns}) SELECT {values}
    FROM generate_series(%(start)s::integer, %(end)s::integer - 1) copy
    JOIN slots ON slot = CASE WHEN copy < {oldest} THEN -1 ELSE copy %% 1000 END
    JOIN {templates} found ON found.{run} = template ORDER BY copy"""
# Ids rise with time, as real ones do, and stand before all real ones.
_ID = sql.SQL("'00' || lpad(copy::text, 24, '0')")
_EARLIER = sql.SQL("found.{} - {year} * (1 - copy::double precision / %(count)s)")
_LENGTHS = frozenset({"delay"})
"""Columns of seconds that are no moments."""


def bury(connection: psycopg.Connection[Any], templates: Mapping[str, str], count: int) -> None:
    """Put ``count`` copies of runs beside them, in all tables; ``templates``: a finished run of each pipeline."""
    connection.execute("SET work_mem = '256MB'")
    _keep_slots(connection, templates)
    statements = [_statement(connection, f"stageflow_{name}") for name in _TABLES]
    for start in range(0, count, PIECE):
        for statement in statements:
            connection.execute(statement, {"start": start, "end": min(start + PIECE, count), "count": count})
    if count:
        connection.execute(_OWNERS, [YEAR, DEAD_OWNERS, DEAD_OWNERS])


def _keep_slots(connection: psycopg.Connection[Any], templates: Mapping[str, str]) -> None:
    """Which template a copy has, by its number's last three digits."""
    short = [templates[name] for name, share in SHARES.items() for _ in range(share)]
    connection.execute("CREATE TEMP TABLE slots (slot integer PRIMARY KEY, template text NOT NULL)")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO slots VALUES (%s, %s)", [(-1, templates[LONG]), *enumerate(short)])


def _statement(connection: psycopg.Connection[Any], table: str) -> sql.Composed:
    """Like for like, at another time and under another id."""
    run = "id" if table == "stageflow_runs" else "run"
    templates = sql.Identifier(f"of_{table}")
    found = sql.SQL("CREATE TEMP TABLE {} AS SELECT * FROM {} WHERE {} IN (SELECT template FROM slots)")
    connection.execute(found.format(templates, sql.Identifier(table), sql.Identifier(run)))
    kinds = "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = %s"
    columns = {str(name): str(kind) for name, kind in connection.execute(kinds, [table])}
    return sql.SQL(_COPY).format(
        table=sql.Identifier(table),
        columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
        values=sql.SQL(", ").join(_value(name, kind) for name, kind in columns.items()),
        templates=templates,
        run=sql.Identifier(run),
        oldest=sql.Literal(OLDEST),
    )


def _value(column: str, kind: str) -> sql.Composable:
    if column in ("id", "run", "key"):
        return _ID
    if kind == "double precision" and column not in _LENGTHS:
        return _EARLIER.format(sql.Identifier(column), year=sql.Literal(YEAR))
    return sql.SQL("found.{}").format(sql.Identifier(column))
