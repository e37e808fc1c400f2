"""Connections to PostgreSQL that wait a bounded time for an answer.

A server that was stopped, or a network that swallows packets behind a live socket, answers nothing and closes nothing;
the server's own timeouts end there too. The time is above them, so that a server which is only slow says so itself.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import cache
from typing import Any, TypeAlias

ANSWER_SECONDS = 20.0
"""How long an answer is waited for; the server gives up a statement after 15 s."""

BoundedConnection: TypeAlias = Any
"""What :func:`connection_class` makes: a ``psycopg.Connection`` with two attributes more."""


@cache
def connection_class() -> Any:
    """A connection of psycopg, bounded by its ``answer_seconds`` (None: for ever) for each statement. ``prelude``: what
    each transaction has to say first, where a pooler stands between; None: nothing.
    """
    import psycopg
    from psycopg.pq import TransactionStatus

    class Bounded(psycopg.Connection[Any]):
        answer_seconds: float | None = ANSWER_SECONDS
        left_transaction: bool | None = None
        """Whether it was outside of a transaction after a statement; None: nobody asks."""
        prelude: str | None = None

        def wait(self, gen: Any, *given: Any, **options: Any) -> Any:
            answer = super().wait(_bounded(self, gen), *given, **options)
            if self.left_transaction is False and self.pgconn.transaction_status == TransactionStatus.IDLE:
                self.left_transaction = True
            return answer

    return Bounded


def _bounded(connection: Any, steps: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The same steps; psycopg resumes them with nothing (0) ten times a second while the socket is silent."""
    began = time.monotonic()
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if not ready:
                _check(connection, time.monotonic() - began)
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value


def _check(connection: Any, waited: float) -> None:
    if connection.answer_seconds is not None and waited > connection.answer_seconds:
        connection.close()  # whatever it answers later answers another question
        raise silence(waited)


def silence(seconds: float) -> Exception:
    """The error of a server that says nothing."""
    from psycopg import OperationalError

    return OperationalError(f"the server said nothing for {seconds:.0f} s")
