"""What seeds have in common: one database, and ids that count."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

from stageflow_durable.model import keys
from stageflow_durable.state.pool import Own
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store import values
from stageflow_durable.store.protocol import Store
from stageflow_durable.testing.clock import START
from tests.simulation.memory import MemoryRows
from tests.simulation.sql import MemoryDatabase

AUDIT_KEY = b"the audit key of the simulation"


class MemoryBench:
    """The store in memory."""

    def __init__(self) -> None:
        self.database = MemoryRows(AUDIT_KEY)

    def store(self, *, optimistic: bool) -> Store:
        """The store of the seed that begins; there is one way only."""
        del optimistic
        return self.database.store

    def forget_decisions(self) -> None:
        """It decides everything anew."""


class Bench:
    """SQLite in memory, with a store of either way."""

    def __init__(self) -> None:
        self.database = MemoryDatabase(lambda: START)
        self.ways = {short: self._store(short) for short in (True, False)}

    def store(self, *, optimistic: bool) -> Store:
        """The store of the seed that begins."""
        return self.ways[optimistic]

    def forget_decisions(self) -> None:
        """Decide anew what the stores have decided once for all runs of a place."""
        for store in self.ways.values():
            if store._unlocked is not None:
                store._unlocked._recipes.clear()

    def _store(self, optimistic: bool) -> SqlStore:
        store = SqlStore(self.database, AUDIT_KEY, optimistic=optimistic)
        store._driver._connections = cast("Any", OneConnection(Own(self.database.raw, is_sqlite=True)))
        return store


class OneConnection:
    """Every line uses the one: a database in memory has no other."""

    def __init__(self, own: Own) -> None:
        self._own = own

    def use(self, do: Callable[..., Any], *given: Any) -> Any:
        """Do it over that."""
        return do(self._own, *given)

    def close(self) -> None:
        """It stays."""


@contextmanager
def known_ids() -> Iterator[None]:
    """Ids that count instead of being drawn: the same seed gives the same."""
    count = iter(range(1, 1 << 40))
    known = SimpleNamespace(token_hex=lambda size: f"{next(count):0{2 * size}x}", randbits=lambda _bits: next(count))
    values.secrets = keys.secrets = known  # type: ignore[attr-defined, assignment]  # put back below
    try:
        yield
    finally:
        values.secrets = keys.secrets = secrets  # type: ignore[attr-defined]  # as above
