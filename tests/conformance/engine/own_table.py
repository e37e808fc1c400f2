"""A table of the application's own beside the engine's, which stages write through ``ctx.session``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select

from stageflow_durable.state.database import Database
from stageflow_durable.testing import InProcessEngine
from tests.services.rows import database_of


class OwnTable:
    """Rows with a text, ``what``, in the order in which they were written. ``unique``: no text twice."""

    def __init__(self, name: str, *, unique: bool = False) -> None:
        self._columns = MetaData()
        key = Column("id", Integer, primary_key=True)
        self.table = Table(name, self._columns, key, Column("what", String(50), unique=unique))

    def fixture(self) -> Any:
        """A fixture that makes it for each test of a module, and drops it."""

        @pytest.fixture(autouse=True)
        def own_table(database_url: str) -> Iterator[None]:
            database = Database(database_url)
            self._columns.create_all(database.engine)
            yield
            self._columns.drop_all(database.engine)
            database.dispose()

        return own_table

    def write(self, ctx: Any, what: str) -> None:
        """Write a row in a stage's transaction."""
        ctx.session.execute(self.table.insert(), {"what": what})

    def written(self, engine: InProcessEngine) -> list[str]:
        """What was committed."""
        with database_of(engine).read() as connection:
            return list(connection.execute(select(self.table.c.what).order_by(self.table.c.id)).scalars())
