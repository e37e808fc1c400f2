"""The rows behind an engine's store, for tests that look at them past the engine, or write to a database."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import and_, select, update

from stageflow_durable.engine.operations import Operations
from stageflow_durable.state.database import Database
from stageflow_durable.state.metadata import PREFIX, metadata
from stageflow_durable.store.memory.rows import Tables


def database_of(engine: Operations) -> Database:
    """The database of an engine on SQL."""
    store: Any = engine.store  # maybe one with crash points around it
    found: Database = store.database
    return found


def rows_of(engine: Operations, table: str, run: str | None = None) -> list[dict[str, Any]]:
    """The rows of a table (its name without the prefix) in an engine's store, of every kind; ``run``: of this one."""
    rows = rows_in(engine.store, table)
    name = {"runs": "id", "idempotency_keys": "owner_run"}.get(table, "run")
    return rows if run is None else [row for row in rows if row[name] == run]


def rows_in(store: Any, table: str) -> list[dict[str, Any]]:
    """The rows of a table in a store of either kind."""
    tables = getattr(store, "_tables", None)
    return rows_in_sql(store.database, table) if tables is None else rows_in_memory(tables, table)


def set_strand(engine: Operations, run: str, strand: str, **columns: Any) -> None:
    """Change the row of a strand past the engine, as nobody does."""
    store: Any = engine.store
    tables = getattr(store, "_tables", None)
    if tables is not None:
        row = tables.strands.get((run, strand, 0))
        tables.strands.put((run, strand, 0), row._replace(**columns))
        tables.journal.commit()
        return
    rows = metadata.tables[PREFIX + "strands"]
    with store.database.transaction() as connection:
        connection.execute(update(rows).where(and_(rows.c.run == run, rows.c.strand == strand)).values(**columns))


def change_rows(store: Any, table: str, which: Callable[[Any], bool], **columns: Any) -> None:
    """Change rows of a store of either kind past the engine, as nobody does."""
    tables = getattr(store, "_tables", None)
    if tables is not None:
        rows = getattr(tables, table)
        for key, row in [(key, row) for key, row in rows.items() if which(row)]:
            rows.put(key, row._replace(**columns))
        tables.journal.commit()
        return
    found = metadata.tables[PREFIX + table]
    with store.database.transaction() as connection:
        for row in [row for row in connection.execute(select(found)) if which(row)]:
            this = and_(*(column == getattr(row, column.name) for column in found.primary_key.columns))
            connection.execute(update(found).where(this).values(**columns))


def rows_in_sql(database: Database, table: str) -> list[dict[str, Any]]:
    """The rows of a table in a database."""
    with database.read() as connection:
        return list(map(dict, connection.execute(select(metadata.tables[PREFIX + table])).mappings()))


def rows_in_memory(tables: Tables, table: str) -> list[dict[str, Any]]:
    """The rows of a store in memory, with the columns of the table."""
    if table == "idempotency_keys":
        return [_key(where, row) for where, row in tables.keys.items()]
    if table == "queues":
        return [{"name": name, **row._asdict()} for name, row in tables.queues.items()]
    if table == "ticks":
        return [{"name": name, "at": at} for name, at in tables.ticks.items()]
    if table == "profiles":
        return [{"id": row.id, "body": row.profile.encoded, "seen_at": row.seen_at} for row in tables.profiles]
    if table == "pools":
        return [{"name": name, "key": key, **row._asdict()} for (name, key), row in tables.pools.items()]
    more = {"runs": {"parent_stage": None, "parent_item": None}}.get(table, {})
    return [row._asdict() | more for row in getattr(tables, table)]


def _key(where: tuple[str, str, str], row: Any) -> dict[str, Any]:
    named = dict(zip(("client_id", "operation", "key"), where, strict=True))
    columns = row.record._asdict() | {"keep_seconds": row.keep_seconds}
    holder = columns.pop("holder")
    run, stage = (None, None) if holder is None else holder
    return {**named, **columns, "owner_run": run, "owner_stage": stage, "owner_item": 0}
