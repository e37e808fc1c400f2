"""Transactions in which verbs of the engine take part, and where they are found meanwhile.

A stage's own, on SQLite: it keeps everybody else from writing, so a verb that the stage calls would wait for the stage
itself. And a caller's own, given to the verb (``session=``, ``connection=``). What a verb writes there is committed
with it, or not at all; what it would publish waits for the commit.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Protocol

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.work import Work


class Session(Protocol):
    """One transaction of a body, from its first use of ``ctx.session`` to the commit of its outcome, or its end."""

    carries_verbs: bool

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
    """Where a transaction is found once it is open. ``later``: what is to be done after its commit."""

    __slots__ = ("holder", "later")

    def __init__(self) -> None:
        self.holder: Any = None  # a Session of the store that asks here
        self.later: list[Callable[[], object]] = []


place_of_session: ContextVar[Place | None] = ContextVar("stageflow_session", default=None)


def session_on(url: object) -> Any:
    """The transaction in which verbs take part here, if it is open and on that database."""
    place = place_of_session.get()
    holder = None if place is None else place.holder
    return holder if holder is not None and holder.carries_verbs and holder.is_open and holder.url == url else None


def after_commit(url: object, action: Callable[[], object]) -> bool:
    """Leave ``action`` to the commit of the transaction in which verbs take part here, if it is on that database."""
    holder, place = session_on(url), place_of_session.get()
    if holder is None or place is None:
        return False
    place.later.append(action)
    return True
