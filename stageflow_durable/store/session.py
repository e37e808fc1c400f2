"""A stage's own transaction, as the engine uses it, and where it is found while the stage runs.

On SQLite the session's transaction keeps everybody else from writing: a verb of the engine that the stage calls would
wait for the stage itself. It becomes part of that transaction instead: it is committed with the checkpoint, or not at
all. What it would publish waits for the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.work import Work


class Session(Protocol):
    """One transaction of a body, from its first use of ``ctx.session`` to the commit of its outcome, or its end."""

    @property
    def session(self) -> Any:
        """What the body gets: a ``sqlalchemy.orm.Session``."""

    def report(self, work: Work, text: str) -> None:
        """Show a stage's progress, within the transaction."""

    def refused(self) -> ConfigurationError | None:
        """Why what the body wrote is not one with its outcome: it was refused what it must not do, or did it."""

    def rollback(self) -> None:
        """Forget the writes and give the connection back. Idempotent."""


class Place:
    """Where one attempt's session is found once it is open. ``later``: what is to be done after its commit."""

    __slots__ = ("holder", "later")

    def __init__(self) -> None:
        self.holder: Any = None  # a Session of the store that asks here
        self.later: list[Callable[[], object]] = []


place_of_session: ContextVar[Place | None] = ContextVar("stageflow_session", default=None)


def session_on(url: object) -> Any:
    """The session of the stage that calls, if it is open and on that SQLite database."""
    place = place_of_session.get()
    holder = None if place is None else place.holder
    return holder if holder is not None and holder.is_open and holder.url == url else None


def after_commit(url: object, action: Callable[[], object]) -> bool:
    """Leave ``action`` to the commit of the stage that calls, if its session is open on that database."""
    holder, place = session_on(url), place_of_session.get()
    if holder is None or place is None:
        return False
    place.later.append(action)
    return True
