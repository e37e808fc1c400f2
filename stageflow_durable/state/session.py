"""A stage's own writes to the engine's database, committed with its checkpoint or not at all."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn, TypeVar

from sqlalchemy import Connection

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.state.database import SESSION_MILLISECONDS, Database, be_patient, interruptible, translated

T = TypeVar("T")


@cache
def _stage_session() -> Any:
    from sqlalchemy.orm import Session  # at its first use: few stages have one, and every command would wait for it

    class StageSession(Session):
        """A session whose transaction belongs to the engine."""

        def commit(self) -> NoReturn:
            """Refused: the engine commits, together with the checkpoint."""
            raise ConfigurationError(
                "ctx.session.commit(): leave it out; the engine commits with the stage's checkpoint"
            )

    return StageSession


class SessionHolder:
    """One connection and one transaction, from the body's first use of ``ctx.session`` to the commit of its outcome."""

    def __init__(self, database: Database, what: str) -> None:
        self._what = what
        with translated():
            self._connection = database.engine.connect()
            self._transaction = self._connection.begin()
            if not database.is_sqlite:
                be_patient(self._connection, SESSION_MILLISECONDS / 1000)
                self._connection.exec_driver_sql(
                    f"SET LOCAL idle_in_transaction_session_timeout = {SESSION_MILLISECONDS}"
                )
        self.session = _stage_session()(bind=self._connection, join_transaction_mode="rollback_only")

    def commit_with(self, save: Callable[[Connection], T]) -> T:
        """Flush the body's writes, save the outcome on the same connection, commit both; a fenced outcome rolls both
        back.
        """
        from stageflow_durable.model.work import Fenced

        with translated():
            try:
                with interruptible(self._connection):
                    self.session.flush()
                    answer = save(self._connection)
                (self._transaction.rollback if isinstance(answer, Fenced) else self._transaction.commit)()
                return answer
            finally:
                self.rollback()

    def write(self, action: Callable[[Connection], T]) -> T:
        """Do something else within the body's transaction; on SQLite nobody else could write meanwhile."""
        with translated(), interruptible(self._connection):
            return action(self._connection)

    def rollback(self) -> None:
        """Forget the writes and give the connection back. Idempotent."""
        self.session.close()
        if self._transaction.is_active:
            self._transaction.rollback()
        self._connection.close()
