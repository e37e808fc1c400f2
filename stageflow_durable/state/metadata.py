"""The one MetaData of every table, with names for constraints so that migrations can refer to them.

Names in the database begin with :data:`PREFIX`.
"""

from __future__ import annotations

from sqlalchemy import MetaData

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

PREFIX = "stageflow_"
"""What each table's name begins with: an application may keep its own tables in the same database."""

VERSION_TABLE = f"{PREFIX}schema_version"
"""Where Alembic notes our revision; an application's migrations have ``alembic_version``."""
