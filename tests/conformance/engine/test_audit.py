"""The chain of events: whatever is done to it behind the engine's back is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, delete, select, update

from stageflow_durable.state import verification
from stageflow_durable.state.tables import events, runs, tombstones
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import AUDIT_KEY

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
Tamper = Callable[[Connection, str], object]


def _of(run: str, seq: int) -> Any:
    return (events.c.run == run) & (events.c.seq == seq)


def changed(connection: Connection, run: str) -> None:
    connection.execute(update(events).where(_of(run, 3)).values(data='{"stage":"z"}'))


def retimed(connection: Connection, run: str) -> None:
    connection.execute(update(events).where(_of(run, 3)).values(at=1.0))


def deleted(connection: Connection, run: str) -> None:
    connection.execute(delete(events).where(_of(run, 3)))


def reordered(connection: Connection, run: str) -> None:
    for one, other in ((3, 999), (4, 3), (999, 4)):
        connection.execute(update(events).where(_of(run, one)).values(seq=other))


def cut_off(connection: Connection, run: str) -> None:
    connection.execute(delete(events).where((events.c.run == run) & (events.c.seq > 4)))


def beheaded(connection: Connection, run: str) -> None:
    connection.execute(delete(events).where(_of(run, 1)))


def rolled_back(connection: Connection, run: str) -> None:
    """The newest events go, and the run's row says so: only an exported head tells."""
    cut_off(connection, run)
    last = connection.execute(select(events).where(_of(run, 4))).one()
    connection.execute(update(runs).where(runs.c.id == run).values(seq=4, head=last.mac))


@pytest.fixture
def engine(way: tuple[str, bool], clock: FakeClock, acts: Acts) -> Iterator[InProcessEngine]:
    """An engine whose history may be falsified: nobody watches the invariants."""
    options: dict[str, Any] = {"database_url": way[0], "short_way": way[1], "clock": clock, "audit_key": AUDIT_KEY}
    with engine_for_tests([acts.line("a b c")], **options) as made:
        yield made


@pytest.fixture
def run(engine: InProcessEngine) -> str:
    """A run that has ended."""
    handle = engine.enqueue("line", {})
    engine.drain()
    return handle.run_id


def tampered(engine: InProcessEngine, tamper: Tamper, run: str) -> None:
    with engine.store.database.transaction() as connection:
        tamper(connection, run)


def test_an_untouched_history_is_whole(engine: InProcessEngine, run: str) -> None:
    other = engine.enqueue("line", {})
    engine.cancel(other.run_id, **WHO)
    found = list(engine.operations.audit())
    assert {checked.run_id for checked in found} == {run, other.run_id}
    assert [checked.problems for checked in found] == [(), ()]
    assert sum(checked.events for checked in found) == len(engine.history(run)) + len(other.history())


@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (changed, r"event 3 \(.*\) was changed: its code does not fit"),
        (retimed, r"event 3 \(.*\) was changed: its code does not fit"),
        (deleted, r"events 3 to 3 are missing"),
        (reordered, r"event 3 \(.*\) does not follow event 2"),
        (cut_off, r"the run's row says \d+ events, the last there is 4: the end was cut off"),
        (beheaded, r"event 2 comes first and is not the beginning"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_what_was_done_to_it_is_named(engine: InProcessEngine, run: str, tamper: Tamper, named: str) -> None:
    whole = engine.enqueue("line", {})
    tampered(engine, tamper, run)
    found = {checked.run_id: checked.problems for checked in engine.operations.audit()}
    assert found[whole.run_id] == ()
    with pytest.raises(AssertionError, match=named):
        assert found[run] == ()


def test_an_exported_head_tells_what_the_run_itself_does_not(engine: InProcessEngine, run: str) -> None:
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.operations.audit_heads()}
    tampered(engine, rolled_back, run)
    (alone,) = engine.operations.audit([run])
    (against,) = engine.operations.audit([run], heads)
    assert alone.problems == ()
    assert "the exported head says" in against.problems[0]


def test_a_run_that_is_gone_is_missed_by_the_exported_heads(engine: InProcessEngine, run: str) -> None:
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.operations.audit_heads()}
    tampered(engine, lambda connection, it: connection.execute(delete(runs).where(runs.c.id == it)), run)
    assert [checked.problems for checked in engine.operations.audit(None, heads)] == [
        ("it was there when the heads were exported, and is gone",)
    ]


def test_what_went_on_since_the_export_is_no_fault(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.operations.audit_heads()}
    engine.drain()
    assert handle.status().value == "succeeded"
    assert [checked.problems for checked in engine.operations.audit(None, heads)] == [()]


def test_a_run_that_is_pruned_while_it_is_looked_at_is_whole(
    engine: InProcessEngine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.advance(86_400 * 31)
    left = [lambda: engine.prune(timedelta(days=30))]
    chain = verification._chain

    def pruned_before(rows: Sequence[Any], key: bytes) -> Iterator[str]:
        # What the second of two statements sees when a prune was committed after the first.
        while left:
            left.pop()()
            rows = []
        yield from chain(rows, key)
        yield from verification._end(rows, 1, "", "the run's row") if not rows else ()

    monkeypatch.setattr(verification, "_chain", pruned_before)
    assert [checked.problems for checked in engine.operations.audit()] == [()]


def test_more_runs_than_are_read_at_once_are_all_checked_and_not_held_at_once(
    engine: InProcessEngine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [run, *(engine.enqueue("line", {}).run_id for _number in range(4))]
    monkeypatch.setattr(verification, "_HEADS", verification._HEADS.limit(2))
    read: list[str] = []
    batch = verification._batch

    def counted(connection: Connection, after: str) -> Sequence[Any]:
        read.append(after)
        return batch(connection, after)

    monkeypatch.setattr(verification, "_batch", counted)
    checking = engine.operations.audit(None, {"gone": (1, "head")})
    assert next(iter(checking)).run_id in ids
    assert len(read) == 1
    assert {checked.run_id for checked in checking} | {min(ids)} == {*ids, "gone"}


class TestPruned:
    """A pruned run leaves a sealed tombstone: a pruned run is told from a deleted one."""

    @pytest.fixture
    def heads(self, engine: InProcessEngine, run: str) -> dict[str, tuple[int, str]]:
        found = {head_of: (seq, mac) for head_of, seq, mac in engine.operations.audit_heads()}
        engine.advance(86_400 * 31)
        assert engine.prune(timedelta(days=30)) == 1
        return found

    def test_it_is_not_missed(self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]) -> None:
        assert [checked.problems for checked in engine.operations.audit(None, heads)] == [()]

    @pytest.mark.parametrize("what", [{"seq": 3}, {"head": "0" * 64}, {"status": "failed"}], ids=str)
    def test_its_tombstone_cannot_be_changed(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]], what: dict[str, Any]
    ) -> None:
        tampered(engine, lambda connection, it: connection.execute(update(tombstones).values(what)), run)
        for against in ({}, heads):
            found = [problem for checked in engine.operations.audit(None, against) for problem in checked.problems]
            assert "its tombstone was changed, or not laid by prune: its code does not fit" in found

    def test_one_that_is_deleted_is_missed(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]
    ) -> None:
        tampered(engine, lambda connection, it: connection.execute(delete(tombstones)), run)
        (checked,) = engine.operations.audit(None, heads)
        assert checked.problems == ("it was there when the heads were exported, and is gone",)

    def test_one_of_a_shorter_history_is_told(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]
    ) -> None:
        longer = {run: (heads[run][0] + 1, "ab" * 32)}
        (checked,) = engine.operations.audit(None, longer)
        assert "the end was cut off" in checked.problems[0]
