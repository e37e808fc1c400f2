"""The schema's version: migrations by Alembic, run from the package itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, literal_column, select, table, text

from stageflow_durable.errors import SchemaAhead, SchemaBehind
from stageflow_durable.state.database import Database, be_patient, translated
from stageflow_durable.state.metadata import PREFIX, VERSION_TABLE
from stageflow_durable.state.migrations.standstill import living

MIGRATIONS = Path(__file__).parent / "migrations"


def config() -> Config:
    """Alembic's configuration of our migrations; the connection is handed over in ``attributes``."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))  # it interpolates
    return made


def head() -> str:
    """The revision that this version of the library needs."""
    revision = ScriptDirectory.from_config(config()).get_current_head()
    assert revision is not None
    return revision


def current(url: str) -> str | None:
    """The revision that a database is at, or None for an empty one."""
    database = Database(url)
    try:
        with database.read() as connection:
            return _found(connection)
    finally:
        database.dispose()


def _found(connection: Connection) -> str | None:
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def is_ahead(revision: str | None) -> bool:
    """Whether a database at ``revision`` was upgraded by a newer release: this one does not know it."""
    return revision is not None and revision not in _known()


def _known() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}


def upgrade(url: str) -> str:
    """Bring a database to :func:`head`; runs in flight go on. Any number of processes may call it at once. Returns the
    revision. Raises SchemaAhead, with nothing changed, where a newer release was here before.
    """
    database = Database(url)
    try:
        with translated(), database.engine.connect() as connection:
            with connection.begin():
                _alone(connection)
                _refuse_ahead(_found(connection))
                made = config()
                made.attributes["connection"] = connection
                command.upgrade(made, "head")
            with connection.begin():
                _alone(connection)
                _validate(connection)
    finally:
        database.dispose()
    return head()


class Locked(NamedTuple):
    """A table that nobody else uses while each of its rows is read or written; ``rows``: about how many it has."""

    table: str
    rows: int


@dataclass(frozen=True, slots=True)
class Step:
    """A migration that is to come. ``workers``: how many are at work and would keep it from beginning; None: they may
    go on meanwhile. ``seconds``: about how long its tables are locked.
    """

    revision: str
    title: str
    locks: tuple[Locked, ...]
    workers: int | None

    @property
    def seconds(self) -> float:
        """By what was measured on two cores; a slower disk takes longer."""
        return sum(lock.rows for lock in self.locks) / ROWS_A_SECOND


ROWS_A_SECOND = 300_000.0
"""How many rows of a table a migration gets through."""


def steps(url: str) -> list[Step]:
    """What :func:`upgrade` would do, in its order; nothing is changed. Raises SchemaAhead."""
    database = Database(url)
    try:
        with database.read() as connection:
            there = _found(connection)
            _refuse_ahead(there)
            scripts = ScriptDirectory.from_config(config()).iterate_revisions("head", there or "base")
            return [_step(connection, script, empty=there is None) for script in reversed(list(scripts))]
    finally:
        database.dispose()


def _step(connection: Connection, script: Any, *, empty: bool) -> Step:
    """``empty``: there are no tables of ours yet."""
    module = script.module
    stops = getattr(module, "stops_workers", False)
    locks = () if empty else tuple(Locked(name, _rows(connection, name)) for name in getattr(module, "locks", ()))
    workers = (0 if empty else living(connection)) if stops else None
    return Step(script.revision, script.doc.rstrip("."), locks, workers)


def _rows(connection: Connection, name: str) -> int:
    """About how many rows a table has, without counting them."""
    if connection.dialect.name == "sqlite":
        # By its name alone: whoever asks need not have loaded what the tables are.
        rows = table(f"{PREFIX}{name}")
        return int(connection.execute(select(func.max(literal_column("rowid"))).select_from(rows)).scalar() or 0)
    return int(connection.execute(_ABOUT, {"name": f"{PREFIX}{name}"}).scalar_one())


# Of a table that was never analysed the catalogue knows nothing, not even how many pages it has: its file does.
_ABOUT = text(
    "SELECT CASE WHEN reltuples < 0 THEN pg_relation_size(oid) / current_setting('block_size')::bigint * 40 "
    "ELSE reltuples END FROM pg_class "
    "WHERE oid = CAST(:name AS regclass)"
)


def _alone(connection: Connection) -> None:
    """Wait for whoever else upgrades, and for whatever takes long."""
    if connection.dialect.name != "sqlite":
        be_patient(connection, None)  # rewriting a large table takes what it takes
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236501)")  # one upgrade at a time


_NOT_VALID = text(
    "SELECT conrelid::regclass::text, quote_ident(conname) "
    "FROM pg_constraint JOIN pg_namespace n ON n.oid = connamespace "
    "WHERE NOT convalidated AND contype = 'c' AND conrelid <> 0 AND nspname = current_schema() "
    "AND starts_with(conname, :ours)"
)


def _validate(connection: Connection) -> None:
    """Hold the rows that are there to CHECKs that a migration added for new ones: others write meanwhile, which its own
    transaction would not let them. Those of domains are left: their migrations only allow more than before.
    """
    if connection.dialect.name != "sqlite":
        for table, check in connection.execute(_NOT_VALID, {"ours": f"ck_{PREFIX}"}).all():
            connection.exec_driver_sql(f"ALTER TABLE {table} VALIDATE CONSTRAINT {check}")


def require_current(url: str) -> None:
    """Raise SchemaBehind or SchemaAhead unless the database is at :func:`head`."""
    there, needed = current(url), head()
    _refuse_ahead(there)
    if there != needed:
        at = "has no schema of stageflow" if there is None else f"is at schema {there}"
        raise SchemaBehind(f"the database {at}, this release needs {needed}; run: stageflow db upgrade")


def _refuse_ahead(there: str | None) -> None:
    if is_ahead(there):
        raise SchemaAhead(
            f"the database is at schema {there}, which a newer release made; this one knows {head()} at the most. "
            "Deploy the newer release here too; nothing was changed"
        )
