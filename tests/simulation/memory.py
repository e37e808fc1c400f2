"""The engine's store in memory, for one seed after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stageflow_durable.model.work import RunFacts
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.memory.rows import Journal, Parts, Tables
from tests.protocol.invariants import SeenInMemory


class NotedJournal(Journal):
    """A journal that counts the rows that were written. ``runs``: those of which one was."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.runs: set[str] = set()

    def commit(self) -> None:
        """Note what stays."""
        if not self.written:
            return  # it has only read
        self.changes += len(self.written)
        for rows, key, before in self.written:
            if isinstance(rows, Parts):
                self.runs.add(key[0])
            elif isinstance(before, RunFacts):  # a new one has strands as well
                self.runs.add(key)
        super().commit()


class NotedStore(MemoryStore):
    """A store whose journal is such a one."""

    def _new_tables(self) -> Tables:
        self.journal = NotedJournal()
        return Tables(self.journal)


class MemoryRows(SeenInMemory):
    """What the simulation knows of the store besides the engine: the same as ``sql.MemoryDatabase``."""

    def __init__(self, audit_key: bytes) -> None:
        self._audit_key = audit_key
        self.use(lambda: 0.0)

    def use(self, clock: Callable[[], float]) -> None:
        """Begin anew, empty and by another clock."""
        self.store = NotedStore(self._audit_key, clock=clock)
        self.tables, self.journal = self.store._tables, self.store.journal
        super().__init__(self.tables)

    def begun(self) -> None:
        """Nothing is remembered."""

    @property
    def written(self) -> set[str]:
        """The runs of which a row was written."""
        return self.journal.runs

    @property
    def changes(self) -> int:
        """How many rows were written so far."""
        return self.journal.changes

    def beaten(self, owner: str | None, expires_at: float) -> None:
        """As the heartbeats left it that are not made one by one."""
        row = self.tables.owners.get(owner or "")
        if row is not None and row.dead_at is None and expires_at > row.expires_at:
            self.tables.owners.put(row.id, row._replace(expires_at=expires_at))
            self.tables.journal.commit()

    def see(self, table: str, run: str | None = None) -> Sequence[Any]:
        """The rows of a table, or those of one run."""
        rows = getattr(self.tables, table)
        if run is None:
            return list(rows)
        if table == "runs":
            found = rows.get(run)
            return () if found is None else (found,)
        return list(rows.every(run))

    def count_of_events(self, run: str) -> int:
        """Those of the run itself, without its items'."""
        return len(self.tables.events.of(run))
