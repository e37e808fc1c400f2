"""The schema's version: migrations by Alembic, run from the package itself."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from stageflow_durable.errors import SchemaBehind
from stageflow_durable.state.database import Database, translated
from stageflow_durable.state.metadata import VERSION_TABLE

MIGRATIONS = Path(__file__).parent / "migrations"


def config() -> Config:
    """Alembic's configuration of our migrations; the connection is handed over in ``attributes``."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
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
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            return context.get_current_revision()
    finally:
        database.dispose()


def upgrade(url: str) -> str:
    """Bring a database to :func:`head`; runs in flight go on. Any number of processes may call it at once. Returns the
    revision.
    """
    database = Database(url)
    try:
        with translated(), database.engine.connect() as connection, connection.begin():
            if not database.is_sqlite:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7236501)")  # one upgrade at a time
            made = config()
            made.attributes["connection"] = connection
            command.upgrade(made, "head")
    finally:
        database.dispose()
    return head()


def require_current(url: str) -> None:
    """Raise SchemaBehind unless the database is at :func:`head`."""
    there, needed = current(url), head()
    if there != needed:
        raise SchemaBehind(
            f"the database is at {there or 'nothing'}, this version needs {needed}; run: stageflow db upgrade"
        )
