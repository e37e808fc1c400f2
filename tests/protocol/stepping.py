"""Sessions of PostgreSQL, stepped: one is held before its n-th statement while the others go as far as they can.

A statement is whatever is sent to the server: of SQLAlchemy or of our own way to the driver; the COMMIT of a
transaction is one too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import event

from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore

Act = Callable[[SqlStore], Any]
"""One transaction of the protocol."""

LONGEST = 20.0
"""Seconds after which a session that does not end is a mistake."""

LOOK_AGAIN = 0.003
"""Seconds between two looks at who waits."""

FREE = -1

# Who waits for a row, or for the transaction that wrote it; what is waited for inside the server does not count.
_WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    " AND wait_event IN ('transactionid', 'tuple', 'spectoken')"
)


class Session:
    """A store in a thread of its own, which can be held before a statement."""

    def __init__(self, url: str, *, optimistic: bool) -> None:
        self._database = Database(url)
        self.store = SqlStore(self._database, optimistic=optimistic)
        self._thread = ThreadPoolExecutor(1)
        self._at, self.statements = FREE, 0
        self.reached, self.halted, self._go = threading.Event(), threading.Event(), threading.Event()
        event.listen(self._database.engine, "connect", self._watch)
        event.listen(self._database.engine, "commit", lambda _connection: self._statement())
        answer(self.start(lambda store: (store.facts(""), store.outputs(""), store.clock())))  # it is connected now

    def _watch(self, connection: Any, _record: object) -> None:
        before = self._statement

        class Stepping(psycopg.Cursor[Any]):
            def execute(self, *given: Any, **keywords: Any) -> Any:
                before()
                return super().execute(*given, **keywords)

            def executemany(self, *given: Any, **keywords: Any) -> None:
                before()
                super().executemany(*given, **keywords)

        connection.cursor_factory = Stepping

    def _statement(self) -> None:
        if self.statements == self._at:
            self.reached.set()
            self.halted.set()
            assert self._go.wait(LONGEST), "nobody let it go"
        self.statements += 1

    def start(self, act: Act, at: int = FREE) -> Future[Any]:
        """Begin ``act``, to be held before its ``at``-th statement (from 0)."""
        self._at, self.statements = at, 0
        for told in (self.reached, self.halted, self._go):
            told.clear()
        future = self._thread.submit(act, self.store)
        future.add_done_callback(lambda _future: self.halted.set())
        return future

    def release(self) -> None:
        """Let it go on."""
        self._go.set()

    def close(self) -> None:
        """Close its connections."""
        self.release()
        self._thread.submit(self.store.close).result(LONGEST)
        self._thread.shutdown()


@dataclass(frozen=True)
class Played:
    """How an interleaving went.

    ``stopped``: the first came to its stop. ``same_later``: none of the others had got anything done there, so that it
    is the same interleaving wherever the first stops later on.
    """

    answers: list[Any]
    stopped: bool
    same_later: bool


class Stage:
    """Some sessions on one database, and somebody who sees how many of them wait for a lock."""

    def __init__(self, url: str, sessions: int, *, optimistic: bool) -> None:
        self.sessions = [Session(url, optimistic=optimistic) for _ in range(sessions)]
        self._observer = psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), autocommit=True)

    def close(self) -> None:
        """Close every connection."""
        for session in self.sessions:
            session.close()
        self._observer.close()

    def alone(self, act: Act) -> Any:
        """Play it undisturbed; its answer."""
        return answer(self.sessions[0].start(act))

    def interleave(self, acts: Sequence[Act], *at: int) -> Played:
        """Start one after another, each as far as it can go: up to its stop (``at``, as many as are given), to a
        lock or to its end; then let all go, the first first.
        """
        futures: list[Future[Any]] = []
        stops = [*at, *[FREE] * len(acts)]
        done = waiting = 0
        for session, act, stop in zip(self.sessions, acts, stops, strict=False):
            futures.append(session.start(act, stop))
            waits = self._as_far_as_it_goes(session, waiting)
            waiting += waits
            done += len(futures) > 1 and session.statements - waits
        stopped = self.sessions[0].reached.is_set()
        for session in self.sessions:
            session.release()
        return Played([answer(future) for future in futures], stopped, not done)

    def _as_far_as_it_goes(self, session: Session, waiting: int) -> bool:
        """Returns whether it waits for a lock."""
        until = time.monotonic() + LONGEST
        while not session.halted.wait(LOOK_AGAIN):
            if self._waiting() > waiting:
                return True
            assert time.monotonic() < until, "it neither ends nor waits for a lock"
        return False

    def _waiting(self) -> int:
        found = self._observer.execute(_WAITING).fetchone()
        return int(found[0]) if found else 0


def answer(future: Future[Any]) -> Any:
    """What came of it: its value, or its error."""
    error = future.exception(LONGEST)
    return future.result() if error is None else error
