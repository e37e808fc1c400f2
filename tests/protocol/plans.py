"""How PostgreSQL would run what a store asks: every statement of a call, and the tables it reads from end to end."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import psycopg
from psycopg import sql
from sqlalchemy import Connection, event

from stageflow_durable.state import prepared
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.metadata import PREFIX
from stageflow_durable.state.store import SqlStore

Asked = tuple[str, Mapping[str, Any]]
MODES = ("force_custom_plan", "force_generic_plan")
"""Planned for these values, and planned once for all: a statement that is asked often changes to the second."""


@contextmanager
def listening(store: SqlStore) -> Iterator[list[Asked]]:
    """What is asked meanwhile, on all ways to the database."""
    asked: list[Asked] = []

    def keep(_connection: Any, _cursor: Any, statement: str, given: Any, _context: Any, many: bool) -> None:
        asked.append((statement, given[0] if many else given))

    def keeping(usual: Any) -> Any:
        def kept(driver: Driver, statement: Statement, given: Mapping[str, Any]) -> Any:
            asked.append((statement.sql, statement.values(given)))
            return usual(driver, statement, given)

        return kept

    def sent(connection: Connection, statement: str, given: Mapping[str, Any]) -> Any:
        asked.append((statement, given))
        return send(connection, statement, given)

    def sent_many(connection: Connection, statement: str, rows: Sequence[Mapping[str, Any]]) -> None:
        asked.append((statement, rows[0]))
        send_many(connection, statement, rows)

    engine, send, send_many = store.database.engine, prepared.send, prepared.send_many
    event.listen(engine, "before_cursor_execute", keep)
    usual = {name: getattr(Driver, name) for name in ("rows", "touched")}
    for name, function in usual.items():
        setattr(Driver, name, keeping(function))
    prepared.send, prepared.send_many = sent, sent_many  # type: ignore[assignment]  # as above
    try:
        yield asked
    finally:
        for name, function in usual.items():
            setattr(Driver, name, function)
        prepared.send, prepared.send_many = send, send_many
        event.remove(engine, "before_cursor_execute", keep)


def read_to_the_end(connection: psycopg.Connection[Any], asked: Asked, mode: str) -> set[str]:
    """The tables that ``asked`` would read row by row."""
    return set(_scanned(plan_of(connection, asked, mode)))


def plan_of(connection: psycopg.Connection[Any], asked: Asked, mode: str) -> Mapping[str, Any]:
    """What PostgreSQL would do."""
    statement, given = asked
    names: list[str] = []

    def number(found: re.Match[str]) -> str:
        if found.group(1) not in names:
            names.append(found.group(1))
        return f"${names.index(found.group(1)) + 1}"

    numbered = re.sub(r"%\((\w+)\)s", number, statement).replace("%%", "%")
    # As the driver tells the server: numbers with a point have a type, the rest is seen from where it stands.
    kinds = ["double precision" if isinstance(given[name], float) else "unknown" for name in names]
    types = f"({', '.join(kinds)})" if kinds else ""
    connection.execute(f"SET plan_cache_mode = {mode}")
    connection.execute(cast("Any", f"PREPARE asked {types} AS {numbered}"))
    values = sql.SQL(", ").join(sql.Literal(given[name]) for name in names)
    explain = sql.SQL("EXPLAIN (FORMAT JSON) EXECUTE asked{}").format(
        sql.SQL("({})").format(values) if names else sql.SQL("")
    )
    try:
        found = connection.execute(explain).fetchone()
    finally:
        connection.execute("DEALLOCATE asked")
    assert found is not None
    plan: Mapping[str, Any] = found[0][0]["Plan"]
    return plan


def ranges(connection: psycopg.Connection[Any], asked: Asked) -> set[str]:
    """The indexes of which ``asked`` would read no more than a range."""
    return {index for index, condition in _indexes(plan_of(connection, asked, MODES[0])) if condition}


def _indexes(node: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    if "Index Name" in node:
        yield node["Index Name"], "Index Cond" in node
    for child in node.get("Plans", ()):
        yield from _indexes(child)


def _scanned(node: Mapping[str, Any]) -> Iterator[str]:
    if node["Node Type"] == "Seq Scan" and node["Relation Name"].startswith(PREFIX):
        yield node["Relation Name"]
    for child in node.get("Plans", ()):
        yield from _scanned(child)
