"""The store in memory: what it is besides a store."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, Submission
from stageflow_durable.errors import ConfigurationError, IdempotencyParamMismatch
from stageflow_durable.state.store import SqlStore
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.memory.transaction import ConstraintBroken
from stageflow_durable.store.protocol import Store
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from tests.items import items_for, over

LINE: Pipeline[Any, Any] = (
    Pipeline("line")
    .stage("a", lambda ctx: {"a": 1}, compensate=lambda ctx: None)
    .stage("b", lambda ctx: {"b": 2}, compensate=lambda ctx: None)
)
KEY = "the key of these tests"


def tables_of(engine: InProcessEngine) -> Any:
    store: Any = engine.store
    return store._tables


def test_both_stores_are_what_the_engine_asks_for() -> None:
    makes: list[Callable[..., Store]] = [MemoryStore, SqlStore]  # the type checker holds it
    assert all(callable(make) for make in makes)


def test_a_session_is_refused_by_name_and_the_run_says_so() -> None:
    asks: Pipeline[Any, Any] = Pipeline("asks").stage("writes", lambda ctx: ctx.session)
    with engine_for_tests(asks, store="memory") as engine:
        handle = engine.enqueue(asks, {})
        engine.drain()
        assert "ctx.session: the store is in memory and has no database" in str(handle.describe().error)


def test_a_transaction_that_fails_leaves_nothing() -> None:
    with engine_for_tests(LINE, store="memory") as engine:
        known = engine.enqueue(LINE, {"n": 1}, idempotency_key="k")
        before = {name: list(rows) for name, rows in vars(tables_of(engine)).items() if hasattr(rows, "put")}
        with pytest.raises(IdempotencyParamMismatch):
            engine.enqueue_many(LINE, [Submission({"n": 2}), Submission({"n": 3}, idempotency_key="k")])
        after = {name: list(rows) for name, rows in vars(tables_of(engine)).items() if hasattr(rows, "put")}
        assert after == before
        assert [run.run_id for run in engine.runs()] == [known.run_id]


def test_what_a_database_would_refuse_is_refused() -> None:
    with engine_for_tests(LINE, store="memory") as engine:
        handle = engine.enqueue(LINE, {})
        engine.drain()
        store: Any = engine.store
        facts = store._transaction.lock(handle.run_id, (), "")
        with pytest.raises(ConstraintBroken, match="was changed since"):
            store._transaction.apply(_noted(facts._replace(seq=facts.seq - 1)))


def _noted(facts: Any) -> Any:
    from stageflow_durable.transitions.draft import note

    return note(facts, "test.event", {})


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("checkpoints", {"delta": '{"a":3}'}, "delta was changed"),
        ("attempts", {"owner": "somebody"}, "owner was changed"),
        ("events", {"data": "{}"}, "its code does not fit"),
    ],
)
def test_a_row_that_was_changed_is_found_by_the_audit(table: str, change: dict[str, Any], said: str) -> None:
    with engine_for_tests(LINE, store="memory", audit_key=KEY) as engine:
        engine.enqueue(LINE, {})
        engine.drain()
        assert [checked.problems for checked in engine.audit()] == [()]
        rows = getattr(tables_of(engine), table)
        key, row = next(iter(rows.items()))
        rows.put(key, row._replace(**change))
        (checked,) = engine.audit()
        assert any(said in problem for problem in checked.problems)


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("items", {"input": "7"}, "items a: inputs was changed"),
        ("items", {"grp": 7}, "item 1: its stage or its group was changed"),
        ("items", {"head": "0" * 64}, "is not the one that the item's row names"),
        ("item_groups", {"done": 0}, "group 0 of a says done 0, it is 2"),
        ("checkpoints", {"delta": "7"}, "item 1: checkpoint#1 a: delta was changed"),
        ("events", {"data": "{}"}, "its code does not fit"),
        ("strands", {"stage": "b"}, "item 1: a strand of it is missing, or was changed"),
    ],
)
def test_a_row_of_an_item_that_was_changed_is_found_by_the_audit(table: str, change: dict[str, Any], said: str) -> None:
    with engine_for_tests(LINE, store="memory", audit_key=KEY) as engine, items_for({("line", "a"): over(5, 6)}):
        engine.enqueue(LINE, {})
        engine.drain()
        assert [checked.problems for checked in engine.audit()] == [()]
        rows = getattr(tables_of(engine), table)
        key, row = next((key, row) for key, row in rows.items() if getattr(row, "item", 1) == 1)
        rows.put(key, row._replace(**change))
        (checked,) = engine.audit()
        assert any(said in problem for problem in checked.problems)


def test_a_run_that_was_pruned_leaves_nothing_of_its_items() -> None:
    with engine_for_tests(LINE, store="memory") as engine, items_for({("line", "a"): over(5, 6)}):
        handle = engine.enqueue(LINE, {})
        engine.drain()
        tables = tables_of(engine)
        assert len(tables.items.of(handle.run_id)) == 2
        engine.clock.advance(1000.0)
        engine.store.prune(500.0, sleep=lambda _seconds: None)
        assert [list(part.every(handle.run_id)) for part in tables.of_runs] == [[]] * len(tables.of_runs)


def test_a_run_that_was_deleted_is_missed_by_the_heads_of_before() -> None:
    with engine_for_tests(LINE, store="memory", audit_key=KEY) as engine:
        handle = engine.enqueue(LINE, {})
        engine.drain()
        heads = {run: (seq, head) for run, seq, head in engine.audit_heads()}
        tables = tables_of(engine)
        tables.runs.remove(handle.run_id)
        (checked,) = engine.audit(heads=heads)
        assert "the run's row is gone" in checked.problems[0]
        for part in (tables.events, *tables.written.values()):
            part.forget(handle.run_id)
        (checked,) = engine.audit(heads=heads)
        assert checked.problems == ("it was there when the heads were exported, and is gone",)


def test_threads_of_one_process_share_it() -> None:
    store = MemoryStore(clock=lambda: 0.0)
    store.register([LINE.plan])
    with engine_for_tests(LINE, store=store) as engine:
        with ThreadPoolExecutor(4) as pool:
            ids = {
                handle.run_id
                for handle in pool.map(lambda _n: engine.enqueue(LINE, {}, idempotency_key="one"), range(50))
            }
        assert len(ids) == 1
        assert len(engine.runs()) == 1


def test_several_engines_may_share_one(request: pytest.FixtureRequest) -> None:
    with engine_for_tests(LINE, store="memory") as first:
        store: Any = first.store
        with engine_for_tests(LINE, store=store._store, clock=first.clock) as second:
            handle = first.enqueue(LINE, {})
            second.sweep()
            first.drain()
            assert second.handle(handle.run_id).status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"store": "redis"}, "store='redis': 'sqlite', 'memory', or a MemoryStore"),
        ({"store": "memory", "database_url": "sqlite:///x.db"}, "give store= or database_url=, not both"),
    ],
)
def test_what_is_no_store_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said), engine_for_tests(LINE, **given):
        pass
