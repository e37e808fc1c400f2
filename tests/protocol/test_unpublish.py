"""Handing nudges back to the sweep touches many runs at once: two that do, in any order, both get through."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import recovery
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import strands
from stageflow_durable.transitions.accept import NewRun
from tests.protocol.stepping import Stage

PLAN = Pipeline("one").stage("a", lambda _ctx: None).plan


def accepted(url: str, *names: str) -> tuple[Nudge, ...]:
    database = Database(url)
    store = SqlStore(database, optimistic=False)
    store.register([PLAN])
    created = [store.create(NewRun(name, "c", PLAN, None, "f", "{}", "{}", "q")) for name in names]
    database.dispose()
    return tuple(nudge for run in created for nudge in run.nudges)


def unpublished(store: SqlStore) -> set[str]:
    with store.database.read() as connection:
        return set(connection.execute(select(strands.c.run).where(strands.c.published_at.is_(None))).scalars())


@pytest.mark.parametrize("at", range(1, 4))
def test_given_two_that_hand_back_the_same_runs_in_opposite_orders_then_neither_is_a_deadlocks_victim(
    migrated_postgres_url: str, at: int
) -> None:
    nudges = accepted(migrated_postgres_url, "A", "B")
    stage = Stage(migrated_postgres_url, 2, optimistic=False)
    one, other = nudges, tuple(reversed(nudges))
    played = stage.interleave((lambda store: store.unpublish(one), lambda store: store.unpublish(other)), at)
    assert played.answers == [None, None]
    assert unpublished(stage.sessions[0].store) == {"A", "B"}
    stage.close()


def test_given_more_than_one_batch_then_all_are_handed_back(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nudges = accepted(migrated_database_url, *(f"R{number}" for number in range(7)))
    database = Database(migrated_database_url)
    store = SqlStore(database, optimistic=False)
    monkeypatch.setattr(recovery, "BATCH", 3)
    store.unpublish(())
    assert unpublished(store) == set()
    store.unpublish(nudges)
    assert len(unpublished(store)) == 7
    database.dispose()
