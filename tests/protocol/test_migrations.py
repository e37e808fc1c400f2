"""The schema: what the migrations make is what the code believes, on both databases, however many ask for it at
once.
"""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.exc import IntegrityError

from stageflow_durable.errors import SchemaBehind
from stageflow_durable.model.plan import Plan, PlannedStage
from stageflow_durable.state import idempotency_keys, schema, tables
from stageflow_durable.state.database import Database
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.store import Store

RUN: dict[str, Any] = {
    "id": "R",
    "client_id": "c",
    "pipeline": "p",
    "version": "1",
    "fingerprint": "f",
    "input": "{}",
    "metadata": "{}",
    "queue": "q",
    "phase": "forward",
    "status": "pending",
    "seq": 1,
    "head": "h",
    "created_at": 1.0,
    "updated_at": 1.0,
}
STRAND: dict[str, Any] = {
    "run": "R",
    "strand": "a",
    "direction": "forward",
    "stage": "a",
    "state": "ready",
    "queue": "q",
}
ATTEMPT: dict[str, Any] = {
    "run": "R",
    "stage": "a",
    "direction": "forward",
    "n": 1,
    "owner": "o",
    "state": "running",
    "began_at": 1.0,
}

BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "an unknown phase": ("runs", {"phase": "sideways"}),
    "an unknown status": ("runs", {"status": "lost"}),
    "an unknown cause": ("runs", {"cause": "weather"}),
    "parked without a reason": ("runs", {"phase": "settled", "status": "parked"}),
    "a park reason on a run that is not parked": (
        "runs",
        {"phase": "settled", "status": "failed", "park_reason": "bug"},
    ),
    "settled and running": ("runs", {"phase": "settled", "status": "running"}),
    "succeeded and not settled": ("runs", {"status": "succeeded"}),
    "backward and not compensating": ("runs", {"phase": "backward", "status": "running"}),
    "running without an owner": ("strands", {"state": "running"}),
    "ready with an owner": ("strands", {"owner": "o"}),
    "waiting without a due time": ("strands", {"state": "waiting"}),
    "an unknown direction": ("strands", {"direction": "up"}),
    "an attempt that ended without a time": ("attempts", {"state": "ok"}),
    "an attempt that runs and has ended": ("attempts", {"ended_at": 2.0}),
    "an unknown saga step": ("saga_steps", {"run": "R", "stage": "a", "state": "maybe"}),
    "an unknown outcome": ("saga_steps", {"run": "R", "stage": "a", "state": "recorded", "outcome": "perhaps"}),
}


@pytest.fixture
def migrated(database_url: str) -> str:
    schema.upgrade(database_url)
    return database_url


def test_given_a_migrated_database_then_the_metadata_finds_nothing_to_change(migrated: str) -> None:
    assert idempotency_keys.idempotency_keys.name in metadata.tables
    database = Database(migrated)
    with database.engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    database.dispose()
    assert differences == []


def test_given_a_migrated_database_when_upgraded_again_then_nothing_happens(migrated: str) -> None:
    assert schema.upgrade(migrated) == schema.head() == schema.current(migrated)


def test_given_an_empty_database_when_four_processes_upgrade_then_all_succeed(database_url: str) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(schema.upgrade, [database_url] * 4) == [schema.head()] * 4


def test_given_an_empty_database_when_used_then_the_way_out_is_named(database_url: str) -> None:
    plan, database = Plan("p", "1", (PlannedStage("a"),)), Database(database_url)
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        Store(database).register([plan])
    database.dispose()
    with pytest.raises(SchemaBehind, match="stageflow db upgrade"):
        schema.require_current(database_url)


@pytest.mark.parametrize("what", BROKEN)
def test_given_a_row_that_breaks_an_invariant_then_the_database_refuses_it(migrated: str, what: str) -> None:
    database, plan = Database(migrated), Plan("p", "1", (PlannedStage("a"),))
    Store(database).register([plan])
    table, change = BROKEN[what]
    defaults: dict[str, dict[str, Any]] = {
        "runs": RUN | {"definition": plan.digest},
        "strands": STRAND,
        "attempts": ATTEMPT,
        "saga_steps": {},
    }
    with database.transaction() as connection:
        if table != "runs":
            connection.execute(tables.runs.insert(), defaults["runs"])
    with pytest.raises(IntegrityError, match=r"(?i)check"), database.transaction() as connection:
        connection.execute(metadata.tables[table].insert(), {**defaults[table], **change})
    database.dispose()
