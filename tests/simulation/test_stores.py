"""One story on two stores: a seed is a random script of everything that may happen to runs, and SQLite and the store in
memory have to tell it alike, line by line, and be left with equal rows, column by column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stageflow_durable.state.metadata import PREFIX, metadata
from stageflow_durable.store.memory import rows as in_memory
from stageflow_durable.store.values import Filter
from stageflow_durable.transitions.rows import StrandRow
from tests.services.rows import rows_in_memory, rows_in_sql
from tests.simulation.lines import apart
from tests.simulation.play import bench, failing, quietly
from tests.simulation.simulation import Simulation

SEEDS, CHUNKS = 400, 4
"""Each is played twice."""

MEMORY_SEEDS = 1000
"""Played in memory alone: as many as a core plays in some ten seconds."""

TABLES = sorted(name.removeprefix(PREFIX) for name in metadata.tables)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_seed_is_the_same_story_on_each_store_and_leaves_equal_rows(chunk: int) -> None:
    size = SEEDS // CHUNKS
    for seed in range(chunk * size, (chunk + 1) * size):
        sql, memory = (told(seed, store) for store in ("sqlite", "memory"))
        assert memory[0] == sql[0], f"seed {seed}: the story differs"
        for what, found in sql[1].items():
            assert memory[1][what] == found, f"seed {seed}: {what}"


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_seed_breaks_a_promise_on_the_store_in_memory(chunk: int) -> None:
    size = MEMORY_SEEDS // CHUNKS
    assert failing(range(chunk * size, (chunk + 1) * size), store="memory") == []


def test_the_records_of_the_store_in_memory_have_the_columns_of_the_tables() -> None:
    records: dict[str, Any] = {
        "attempts": in_memory.AttemptRecord,
        "checkpoints": in_memory.CheckpointRecord,
        "saga_steps": in_memory.StepRecord,
        "owners": in_memory.OwnerRecord,
        "definitions": in_memory.DefinitionRecord,
        "tombstones": in_memory.TombstoneRecord,
        "events": in_memory.EventRecord,
        "items": in_memory.ItemRecord,
        "item_groups": in_memory.GroupRecord,
        "strands": StrandRow,
    }
    for table, record in records.items():
        assert sorted(record._fields) == sorted(metadata.tables[PREFIX + table].c.keys()), table


def told(seed: int, store: str) -> tuple[str, dict[str, Any]]:
    """How a seed goes on a store: its story in one number, and what is there at its end, also once it is pruned."""
    with quietly():
        return apart(lambda: _told(seed, store))


def _told(seed: int, store: str) -> tuple[str, dict[str, Any]]:
    simulation = Simulation(bench(store), seed)
    assert simulation.run() is None
    found = {table: _rows(simulation, table) for table in TABLES}
    found |= {f"what is told: {name}": answer for name, answer in _answers(simulation).items()}
    simulation.passed += 1000.0
    simulation.store.prune(500.0, sleep=lambda _seconds: None)
    found |= {f"{table}, pruned": _rows(simulation, table) for table in TABLES}
    story = simulation.hash()
    simulation.forget()
    return story, found


def _rows(simulation: Simulation, table: str) -> list[Mapping[str, Any]]:
    """In any order. A value of an enumeration is its text, as it is when it was read from a table."""
    database = simulation.database
    rows = rows_in_memory(database.tables, table) if hasattr(database, "tables") else rows_in_sql(database, table)
    plain = ({name: str(value) if isinstance(value, str) else value for name, value in row.items()} for row in rows)
    return sorted((dict(sorted(row.items())) for row in plain), key=repr)


def _answers(simulation: Simulation) -> dict[str, Any]:
    """What people are told at the end."""
    store = simulation.store
    ids = sorted(row.id for row in simulation.database.see("runs"))
    now = store.clock()
    return {
        "runs": [store.run(run) for run in ids],
        "histories": [store.history(run) for run in ids],
        "lists": store.summaries(Filter()),
        "standings": store.standings(ids, {}),
        "checked": sorted(store.audit(None, {}), key=lambda one: one.run_id),
        "heads": list(store.heads()),
        "workers": store.workers(),
        "attention": [store.stuck(now), store.unserved(now), store.unconfirmed()],
        "due": [store.next_due(1.0), store.next_wait(0.1), store.overdue(0.1)],
        "misfits": store.misfits([]),
        "strangers": store.strangers(),
        "roster": store.roster(),
    }
