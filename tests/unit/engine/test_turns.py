"""Sweeps in turn: one process in an interval, and none that cannot see the dead keeps the others from looking."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import update

from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.state.database import Database
from stageflow_durable.state.schema import upgrade
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import owners
from stageflow_durable.store.values import Identity

INTERVAL = 60.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """A store with one owner whose lease has run out."""
    url = f"sqlite:///{tmp_path / 'turns.db'}"
    upgrade(url)
    made = SqlStore(Database(url))
    made.join(Identity("h", 1, "boot"), -1.0)
    yield made
    made.close()


def sweeper(store: SqlStore, *, judges: bool) -> Sweeper:
    publisher: Any = SimpleNamespace()
    judge = store.join(Identity("h", 2, "elder"), 10.0) if judges else None
    with store.database.transaction() as connection:
        connection.execute(update(owners).where(owners.c.id == judge).values(steady_since=0.0))
    return Sweeper(store, publisher, Patience(10.0), lambda: judge)


def test_given_a_turn_of_a_newcomer_when_one_who_may_judge_comes_then_it_buries_the_dead(store: SqlStore) -> None:
    newcomer, elder = sweeper(store, judges=False), sweeper(store, judges=True)
    first = newcomer.sweep_in_turn(INTERVAL)
    assert first is not None and first.owners_dead == 0
    second = elder.sweep_in_turn(INTERVAL)
    assert second is not None and second.owners_dead == 1


@pytest.mark.parametrize("judges", [True, False])
def test_given_a_turn_that_was_taken_when_another_of_its_kind_comes_then_it_does_not_sweep(
    store: SqlStore, *, judges: bool
) -> None:
    assert sweeper(store, judges=judges).sweep_in_turn(INTERVAL) is not None
    assert sweeper(store, judges=judges).sweep_in_turn(INTERVAL) is None
