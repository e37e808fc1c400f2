"""A transaction of Django's, in which verbs take part: its driver's connection, its savepoints, its ``on_commit``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

from sqlalchemy.exc import DBAPIError

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.state.clock import SQLITE_CLOCK
from stageflow_durable.state.database import Database
from stageflow_durable.state.joined import Foreign, Joined, Waiting


class DjangoTransaction(Foreign):
    """The transaction that is open on Django's connection ``using``."""

    def __init__(self, using: str = "default") -> None:
        self.using = using

    def part(self, database: Database) -> DjangoPart:
        """How verbs take part in it."""
        return DjangoPart(self.using, database)

    def leave(self, waiting: Waiting) -> None:
        """Leave something to its commit: Django forgets it with a savepoint that is rolled back."""
        from django.db import transaction

        transaction.on_commit(waiting.send, using=self.using)


class _Driver:
    """As much of a connection of SQLAlchemy as a prepared statement needs."""

    def __init__(self, django: Any, dialect: Any) -> None:
        self.dialect = dialect
        self.connection = SimpleNamespace(dbapi_connection=django.connection, driver_connection=django.connection)
        self.info: dict[str, Any] = {}

    def in_transaction(self) -> bool:
        """Django has begun it."""
        return True

    def invalidate(self, _error: object = None) -> None:
        """Django finds out by itself that its connection is lost."""


class DjangoPart(Joined):
    """See :class:`~stageflow_durable.state.joined.Joined`."""

    def __init__(self, using: str, database: Database) -> None:
        from django.db import connections

        self._django, self._using = connections[using], using
        self._django.ensure_connection()
        lent: Any = _Driver(self._django, database.engine.dialect)
        super().__init__(lent, database)

    def require_usable(self) -> None:
        """Raise ConfigurationError outside ``atomic()``, and where it is of another database than the engine."""
        if not self._django.in_atomic_block:
            raise ConfigurationError(
                f"the engine cannot take part: no transaction is open on {self._using!r}; call it within atomic()"
            )
        self._require_kind(self._django.vendor)
        if self._database.is_sqlite:
            self._require_file()
            self._django.connection.create_function(SQLITE_CLOCK, 0, self._database.clock)
        elif not hasattr(self._django.connection, "execute"):
            raise ConfigurationError("the engine cannot take part: Django's connection needs psycopg 3")

    def _savepoint(self) -> AbstractContextManager[Any]:
        from django.db import transaction

        atomic: AbstractContextManager[Any] = transaction.atomic(using=self._using)
        return atomic

    def _row(self, sql: str) -> Sequence[Any] | None:
        dialect: Any = self._connection.dialect
        kind = dialect.dbapi.Error
        try:
            cursor = self._django.connection.cursor()
            cursor.execute(sql)
            return cursor.fetchone() if cursor.description else None
        except kind as error:
            raise DBAPIError.instance(sql, {}, error, kind) from error
