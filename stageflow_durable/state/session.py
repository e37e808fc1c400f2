"""A stage's own writes to the engine's database, committed with its checkpoint or not at all.

The transaction is the engine's. A stage that ends it (``COMMIT`` as text, the driver's own ``commit()``) is refused
where that can be seen, and found out at the checkpoint where it cannot: its writes would happen again with the next
attempt. A connection that the stage, or a thread of it, still holds is closed and not given to anybody else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from secrets import token_hex
from typing import Any, TypeVar

from sqlalchemy import Connection, event

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.work import Fenced, Work
from stageflow_durable.state import progress
from stageflow_durable.state.control import ends_transaction, outlasts_transaction
from stageflow_durable.state.database import SESSION_MILLISECONDS, Database, be_patient, interruptible, translated
from stageflow_durable.state.hold import Hold

T = TypeVar("T")

_MARK = "SELECT set_config('stageflow.attempt', %s, true), set_config('idle_in_transaction_session_timeout', %s, true)"
_MARKED = "SELECT current_setting('stageflow.attempt', true)"
_LEAVE_OUT = "leave it out; the engine commits with the stage's checkpoint"


class SessionMisused(ConfigurationError):
    """A stage ended the transaction of ``ctx.session``: what it wrote is not one with its outcome any more."""


@cache
def _stage_session() -> Any:
    from sqlalchemy.orm import Session  # at its first use: few stages have one, and every command would wait for it

    class StageSession(Session):
        """A session whose transaction belongs to the engine."""

        holder: SessionHolder

        def commit(self) -> None:
            """Refused: the engine commits, together with the checkpoint."""
            raise SessionMisused(f"ctx.session.commit(): {_LEAVE_OUT}")

        def prepare(self) -> None:
            """Refused, as a commit is."""
            raise SessionMisused(f"ctx.session.prepare(): {_LEAVE_OUT}")

        def begin(self, nested: bool = False) -> Any:
            """A part of its own in the engine's transaction: a savepoint, as of ``begin_nested()``."""
            return super().begin(nested=True)

        def rollback(self) -> None:
            """Forget what was written so far; what is written from now on is committed with the checkpoint."""
            super().rollback()
            self.holder.begin_again()

        def __exit__(self, kind: object, error: object, trace: object) -> None:
            if kind is None:
                self.flush()  # closing forgets what was only added
            super().__exit__(kind, error, trace)

    return StageSession


class SessionHolder:
    """One connection and one transaction, from the body's first use of ``ctx.session`` to the commit of its outcome."""

    def __init__(self, database: Database) -> None:
        self._on_sqlite = self.carries_verbs = database.is_sqlite
        self.url = database.url
        self._mark = token_hex(8)
        self._own = True
        self.is_open = True
        with translated():
            self._connection = database.engine.connect()
            self._hold = Hold(self._connection, lasting=database.in_memory)
            self._begin()
        self._listen()
        self.session = _stage_session()(bind=self._connection, join_transaction_mode="rollback_only")
        self.session.holder = self
        self._hold.note()
        self._own = False

    def _begin(self) -> None:
        self._transaction = self._connection.begin()
        self._hold.watch()
        if not self._on_sqlite:
            be_patient(self._connection, SESSION_MILLISECONDS / 1000)
            self._connection.exec_driver_sql(_MARK, (self._mark, str(SESSION_MILLISECONDS)))

    def _listen(self) -> None:
        event.listen(self._connection, "before_cursor_execute", self._check_statement)
        event.listen(self._connection, "commit", self._check_commit)
        # SQLAlchemy rolls back what a flush failed in; what is written after that is refused at the checkpoint.
        event.listen(self._connection, "rollback", lambda _connection: self._hold.free())

    def _check_statement(self, _connection: Any, _cursor: Any, statement: str, *_given: Any) -> None:
        if self._own:
            return
        ends = ends_transaction(statement)
        if ends is not None:
            raise SessionMisused(f"ctx.session: {ends}: {_LEAVE_OUT}")
        if outlasts_transaction(statement):
            self._hold.discard = True

    def _check_commit(self, _connection: Any) -> None:
        if not self._own:
            raise SessionMisused(f"ctx.session.connection().commit(): {_LEAVE_OUT}")

    @contextmanager
    def _by_the_engine(self) -> Iterator[None]:
        outer, self._own = self._own, True
        try:
            yield
        finally:
            self._own = outer

    def begin_again(self) -> None:
        """After the body has rolled back: a new transaction, as the first was."""
        if self.is_open and not self._connection.closed and not self._connection.in_transaction():
            self._hold.free()
            with translated(), self._by_the_engine():
                self._begin()

    def refused(self) -> SessionMisused | None:
        """Whether a body that failed did so since it was refused what it must not do, or has done it all the same."""
        if self._hold.refused:
            return SessionMisused(f"ctx.session: COMMIT, ROLLBACK or BEGIN below the session: {_LEAVE_OUT}")
        return self.misused()

    def misused(self) -> SessionMisused | None:
        """Whether the body ended the transaction by itself, as far as that can be told; None: it did not."""
        with self._by_the_engine():
            why = self._broken()
        if why is None:
            return None
        told = "what it wrote there may be there twice after another attempt; look before you resume"
        return SessionMisused(f"ctx.session: {why}; {told}")

    def _broken(self) -> str | None:
        if self._connection.invalidated or self._hold.lost:
            return None  # the connection is gone, and what was not committed with it
        if self._connection.closed:
            return "the stage closed its connection"
        if self._hold.ended:
            return "the stage ended its transaction (COMMIT or ROLLBACK below the session)"
        if not self._transaction.is_active or self._connection.get_transaction() is not self._transaction:
            return "its transaction was rolled back; call ctx.session.rollback(), or write within begin_nested()"
        if self._on_sqlite or self._hold.failed:
            return None  # SQLite's driver refuses it; a transaction that failed cannot be asked
        with translated():
            mark = self._connection.exec_driver_sql(_MARKED).scalar()
        return None if mark == self._mark else "the stage ended its transaction and began another"

    def commit_with(self, save: Callable[[Connection], T]) -> T:
        """Flush the body's writes, save the outcome on the same connection, commit both; a fenced outcome rolls both
        back. Raises SessionMisused, and what the flush raises.
        """
        with translated():
            try:
                with interruptible(self._connection):
                    self.session.flush()
                    misused = self.misused()
                    if misused is not None:
                        raise misused
                    self._own = True
                    self._hold.free()
                    answer = save(self._connection)
                (self._transaction.rollback if isinstance(answer, Fenced) else self._transaction.commit)()
                return answer
            finally:
                self.rollback()

    def write(self, action: Callable[[Connection], T]) -> T:
        """Do something else within the body's transaction; on SQLite nobody else could write meanwhile."""
        with translated(), interruptible(self._connection), self._by_the_engine():
            return action(self._connection)

    def report(self, work: Work, text: str) -> None:
        """Show the stage's progress."""
        self.write(lambda connection: progress.report(connection, work, text))

    @contextmanager
    def nested(self) -> Iterator[Connection]:
        """A part of the body's transaction that is undone alone when it fails."""
        with translated(), self._by_the_engine(), self._connection.begin_nested():
            yield self._connection

    def rollback(self) -> None:
        """Forget the writes and give the connection back. Idempotent."""
        if not self.is_open:
            return
        self.is_open, self._own = False, True
        try:
            self.session.close()
            self._hold.free()
            if self._transaction.is_active:
                self._transaction.rollback()
        finally:
            self._hold.give_back()
