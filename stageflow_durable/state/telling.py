"""What the SQL store knows of sinks: each method is one transaction, or one look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from sqlalchemy import Connection

from stageflow_durable.model.sinks import Horizon, SinkLease, SinkView
from stageflow_durable.state import sinks
from stageflow_durable.state.database import Database
from stageflow_durable.store.values import News

T = TypeVar("T")


class Telling:
    """The store's verbs and questions about sinks."""

    database: Database

    def _change(self, action: Callable[[Connection], T]) -> T:
        with self.database.transaction() as connection:
            return action(connection)

    def _look(self, look: Callable[[Connection], T]) -> T:
        with self.database.read() as connection:
            return look(connection)

    def open_sink(self, name: str) -> None:
        """Make a sink known, unless it is: it begins with what happens from now on."""
        self._change(lambda c: sinks.opened(c, name))

    def horizon(self, before: Horizon | None = None) -> Horizon:
        """Up to which position all events are there, once its writers have ended."""
        return self._look(lambda c: sinks.horizon(c, before))

    def news(self, after: int, upto: int, kinds: Sequence[str], limit: int) -> News:
        """Events whose types begin so, between two positions, in their order."""
        return self._look(lambda c: sinks.news(c, after, upto, kinds, limit))

    def take_sink(self, name: str, owner: str, seconds: float) -> SinkLease | None:
        """The right to tell a sink, for so many seconds; None: another process has it, or it is not yet tried again."""
        return self._change(lambda c: sinks.taken(c, name, owner, seconds))

    def advance_sink(
        self, lease: SinkLease, position: int, seconds: float, *, took: bool = False, well: bool = False
    ) -> bool:
        """It was told up to ``position``, and the lease goes on. False: another process has it by now."""
        return self._change(lambda c: sinks.advanced(c, lease, position, seconds, took=took, well=well))

    def sink_refused(self, lease: SinkLease, position: int, error: str, seconds: float) -> bool:
        """It refused the event after ``position``. False: another process has it by now."""
        return self._change(lambda c: sinks.refused(c, lease, position, error, seconds))

    def leave_sink(self, lease: SinkLease) -> None:
        """Whoever had it does not tell it any more."""
        self._change(lambda c: sinks.left(c, lease))

    def free_sinks(self, owner: str) -> None:
        """A process was seen to end: others may tell at once what it told."""
        self._change(lambda c: sinks.freed(c, owner))

    def forget_sink(self, name: str) -> bool:
        """Forget a sink; returns whether it was known."""
        return self._change(lambda c: sinks.forgotten(c, name))

    def sinks(self) -> list[SinkView]:
        """How every sink stands."""
        return self._look(sinks.seen)
