"""The engine's store in memory, for one seed after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.memory.rows import Parts, Rows, Tables
from tests.protocol.invariants import SeenInMemory
from tests.services.rows import OF_ITEMS


class NotedTables(Tables):
    """Tables that count what is written to them. ``written_runs``: the runs of which a row was written, or nearly: what
    was rolled back counts too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0
        self.written_runs: set[str] = set()
        for rows in list(vars(self).values()):
            if isinstance(rows, Rows):
                self._note(rows)

    def _note(self, rows: Rows[Any, Any]) -> None:
        put, of_run = rows.put, self._run_of(rows)

        def noted(key: Any, row: Any) -> None:
            self.changes += 1
            if of_run is not None:
                self.written_runs.add(of_run(key))
            put(key, row)

        rows.put = noted  # type: ignore[method-assign]  # of this one

    def _run_of(self, rows: Rows[Any, Any]) -> Callable[[Any], str] | None:
        if rows is self.runs:
            return str
        return (lambda key: str(key[0])) if isinstance(rows, Parts) else None


class NotedStore(MemoryStore):
    """A store on such tables."""

    def _new_tables(self) -> NotedTables:
        return NotedTables()


class MemoryRows(SeenInMemory):
    """What the simulation knows of the store besides the engine: the same as ``sql.MemoryDatabase``."""

    def __init__(self, audit_key: bytes) -> None:
        self._audit_key = audit_key
        self.use(lambda: 0.0)

    def use(self, clock: Callable[[], float]) -> None:
        """Begin anew, empty and by another clock."""
        self.store = NotedStore(self._audit_key, clock=clock)
        tables: Any = self.store._tables
        self.tables: NotedTables = tables
        super().__init__(tables)

    def begun(self) -> None:
        """Nothing is remembered."""

    @property
    def written(self) -> set[str]:
        """The runs of which a row was written."""
        return self.tables.written_runs

    @property
    def changes(self) -> int:
        """How many rows were written so far."""
        return self.tables.changes

    def beaten(self, owner: str | None, expires_at: float) -> None:
        """As the heartbeats left it that are not made one by one."""
        row = self.tables.owners.get(owner or "")
        if row is not None and row.dead_at is None and expires_at > row.expires_at:
            self.tables.owners.put(row.id, row._replace(expires_at=expires_at))
            self.tables.journal.commit()

    def see(self, table: str, run: str | None = None) -> Sequence[Any]:
        """The rows of a table, or those of one run."""
        if table in OF_ITEMS:
            return ()
        rows = getattr(self.tables, table)
        if run is None:
            return list(rows)
        if table == "runs":
            found = rows.get(run)
            return () if found is None else (found,)
        return list(rows.of(run))

    def count_of_events(self, run: str) -> int:
        return len(self.tables.events.of(run))
