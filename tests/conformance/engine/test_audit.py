"""The chain of events: whatever is done to it behind the engine's back is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert, select, update

from stageflow_durable.errors import NotAllowed
from stageflow_durable.state import verification
from stageflow_durable.state.database import Database
from stageflow_durable.state.store import SqlStore
from stageflow_durable.state.tables import attempts, checkpoints, events, runs, saga_steps, strands, tombstones
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from stageflow_durable.transitions.operate import Order
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import AUDIT_KEY
from tests.services.rows import database_of

pytestmark = pytest.mark.sql

OF_RUNS = (runs, events, attempts, checkpoints, saga_steps, strands)
WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
SECOND_KEY = "the key that came after it"
Tamper = Callable[[Connection, str], object]
OpenWith = Callable[..., InProcessEngine]


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


def rewound(connection: Connection, run: str) -> None:
    """The run's row alone is again what it was after its third event."""
    of_third = select(events.c.mac).where(_of(run, 3)).scalar_subquery()
    connection.execute(update(runs).where(runs.c.id == run).values(seq=3, head=of_third))


def paid_twice(connection: Connection, run: str) -> None:
    of_c = (checkpoints.c.run == run) & (checkpoints.c.stage == "c")
    connection.execute(update(checkpoints).where(of_c).values(delta='"twice"'))


def put_back(connection: Connection, earlier: Mapping[Table, Sequence[Any]]) -> None:
    """Every row of the run is again what it was: only an exported head tells."""
    for table, rows in earlier.items():
        connection.execute(delete(table))
        if rows:
            connection.execute(insert(table), [dict(row._mapping) for row in rows])


def rows_of_run(engine: InProcessEngine) -> dict[Table, Sequence[Any]]:
    """All rows of the tables in which a run has some."""
    with database_of(engine).read() as connection:
        return {table: connection.execute(select(table)).all() for table in OF_RUNS}


@pytest.fixture
def engine(way: tuple[str, bool], clock: FakeClock, acts: Acts) -> Iterator[InProcessEngine]:
    """An engine whose history may be falsified: nobody watches the invariants."""
    options: dict[str, Any] = {"database_url": way[0], "optimistic": way[1], "clock": clock, "audit_key": AUDIT_KEY}
    with engine_for_tests([acts.line("a b c")], **options) as made:
        yield made


@pytest.fixture
def run(engine: InProcessEngine) -> str:
    """A run that has ended."""
    handle = engine.enqueue("line", {})
    engine.drain()
    return handle.run_id


def tampered(engine: InProcessEngine, tamper: Tamper, run: str) -> None:
    with database_of(engine).transaction() as connection:
        tamper(connection, run)


def test_an_untouched_history_is_whole(engine: InProcessEngine, run: str) -> None:
    other = engine.enqueue("line", {})
    engine.cancel(other.run_id, **WHO)
    found = list(engine.audit())
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
        (rewound, r"the run's row says 3 events, there are \d+: it was put back"),
        (beheaded, r"event 2 comes first and is not the beginning"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)
def test_what_was_done_to_it_is_named(engine: InProcessEngine, run: str, tamper: Tamper, named: str) -> None:
    whole = engine.enqueue("line", {})
    tampered(engine, tamper, run)
    found = {checked.run_id: checked.problems for checked in engine.audit()}
    assert found[whole.run_id] == ()
    with pytest.raises(AssertionError, match=named):
        assert found[run] == ()


def test_an_exported_head_tells_what_the_run_itself_does_not(engine: InProcessEngine) -> None:
    run = engine.enqueue("line", {}).run_id
    earlier = rows_of_run(engine)
    engine.drain()
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.audit_heads()}
    tampered(engine, lambda connection, _run: put_back(connection, earlier), run)
    (alone,) = engine.audit([run])
    (against,) = engine.audit([run], heads)
    assert alone.problems == ()
    assert "the exported head says" in against.problems[0]


def test_a_run_that_is_gone_is_missed_by_the_exported_heads(engine: InProcessEngine, run: str) -> None:
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.audit_heads()}
    tampered(engine, lambda connection, _run: put_back(connection, dict.fromkeys(OF_RUNS, ())), run)
    assert [checked.problems for checked in engine.audit(None, heads)] == [
        ("it was there when the heads were exported, and is gone",)
    ]


def test_a_run_whose_row_alone_is_gone_is_missed_by_what_is_left_of_it(engine: InProcessEngine, run: str) -> None:
    tampered(engine, lambda connection, it: connection.execute(delete(runs).where(runs.c.id == it)), run)
    (checked,) = engine.audit()
    assert checked.problems[0].startswith("the run's row is gone, and rows of it are left:")


def test_what_went_on_since_the_export_is_no_fault(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.audit_heads()}
    engine.drain()
    assert handle.status().value == "succeeded"
    assert [checked.problems for checked in engine.audit(None, heads)] == [()]


def test_a_run_that_is_pruned_while_it_is_looked_at_is_whole(
    engine: InProcessEngine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.advance(86_400 * 31)
    left = [lambda: engine.prune(timedelta(days=30))]
    by_run = verification._by_run

    def pruned_before(connection: Connection, table: Table, *more: Any) -> Any:
        while left:  # its row was read, its parts were not
            assert left.pop()() == 1
        return by_run(connection, table, *more)

    monkeypatch.setattr(verification, "_by_run", pruned_before)
    assert [(checked.run_id, checked.problems) for checked in engine.audit()] == [(run, ())]


def test_more_runs_than_are_read_at_once_are_all_checked_and_not_held_at_once(
    engine: InProcessEngine, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [run, *(engine.enqueue("line", {}).run_id for _number in range(4))]
    monkeypatch.setattr(verification, "RUNS", 2)
    read: list[str] = []
    page = verification.Checker.page

    def counted(checker: Any, connection: Connection, after: str) -> Any:
        read.append(after)
        return page(checker, connection, after)

    monkeypatch.setattr(verification.Checker, "page", counted)
    checking = engine.audit(None, {"gone": (1, "head")})
    assert next(iter(checking)).run_id in ids
    assert len(read) == 1
    assert {checked.run_id for checked in checking} | {min(ids)} == {*ids, "gone"}


class TestAnotherKey:
    """The key may be changed while runs are kept: whoever verifies knows the old one as well."""

    @pytest.fixture
    def open_with(self, way: tuple[str, bool], clock: FakeClock, acts: Acts) -> Iterator[OpenWith]:
        """An engine with these keys, on the database of those before."""
        with ExitStack() as opened:

            def make(**keys: Any) -> InProcessEngine:
                options: dict[str, Any] = {"database_url": way[0], "optimistic": way[1], "clock": clock}
                return opened.enter_context(engine_for_tests([acts.line("a b c")], **options, **keys))

            yield make

    @pytest.fixture
    def kept(self, open_with: OpenWith, acts: Acts) -> dict[str, str]:
        """Under the first key one run has ended, one was pruned and one goes on under the second."""
        first = open_with(audit_key=AUDIT_KEY)
        pruned = first.enqueue("line", {}).run_id
        first.drain()
        first.advance(86_400 * 31)
        assert first.prune(timedelta(days=30)) == 1
        ended = first.enqueue("line", {}).run_id
        first.drain()
        acts.play("b", TypeError("a bug"))
        parked = first.enqueue("line", {}).run_id
        first.drain()
        second = open_with(audit_key=SECOND_KEY)
        second.resume(parked, **WHO)
        second.drain()
        fresh = second.enqueue("line", {}).run_id
        second.drain()
        return {"pruned": pruned, "ended": ended, "went on": parked, "fresh": fresh}

    def found(self, engine: InProcessEngine, kept: dict[str, str]) -> dict[str, tuple[str, ...]]:
        problems = {checked.run_id: checked.problems for checked in engine.audit()}
        return {name: problems.get(run, ()) for name, run in kept.items()}

    def test_with_the_old_key_beside_it_all_are_whole(self, open_with: OpenWith, kept: dict[str, str]) -> None:
        engine = open_with(audit_key=SECOND_KEY, old_audit_keys=f"a key of even before that,{AUDIT_KEY}")
        assert self.found(engine, kept) == dict.fromkeys(kept, ())
        assert all(checked.rows for checked in engine.audit())

    def test_without_it_what_was_written_before_does_not_verify_and_says_why(
        self, open_with: OpenWith, kept: dict[str, str]
    ) -> None:
        found = self.found(open_with(audit_key=SECOND_KEY), kept)
        assert "its code does not fit" in found["pruned"][0]
        assert "STAGEFLOW_OLD_AUDIT_KEYS" in found["ended"][0]
        assert "its code does not fit" in found["went on"][0]
        assert found["fresh"] == ()

    def test_what_was_changed_is_found_under_either_key(self, open_with: OpenWith, kept: dict[str, str]) -> None:
        engine = open_with(audit_key=SECOND_KEY, old_audit_keys=AUDIT_KEY)
        for run in (kept["ended"], kept["went on"], kept["fresh"]):
            tampered(engine, paid_twice, run)
        found = self.found(engine, kept)
        assert found.pop("pruned") == ()
        assert set(found.values()) == {("checkpoint c: delta was changed",)}


class TestPruned:
    """A pruned run leaves a sealed tombstone: a pruned run is told from a deleted one."""

    @pytest.fixture
    def heads(self, engine: InProcessEngine, run: str) -> dict[str, tuple[int, str]]:
        found = {head_of: (seq, mac) for head_of, seq, mac in engine.audit_heads()}
        engine.advance(86_400 * 31)
        assert engine.prune(timedelta(days=30)) == 1
        return found

    def test_it_is_not_missed(self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]) -> None:
        assert [checked.problems for checked in engine.audit(None, heads)] == [()]

    @pytest.mark.parametrize(
        "what",
        [
            {"seq": 3},
            {"head": "0" * 64},
            {"status": "failed"},
            {"client_id": "other"},
            {"pipeline": "other"},
            {"key": "other"},
            {"fingerprint": "0" * 64},
            {"finished_at": 1.0},
            {"pruned_at": 1.0},
        ],
        ids=str,
    )
    def test_its_tombstone_cannot_be_changed(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]], what: dict[str, Any]
    ) -> None:
        tampered(engine, lambda connection, it: connection.execute(update(tombstones).values(what)), run)
        for against in ({}, heads):
            found = [problem for checked in engine.audit(None, against) for problem in checked.problems]
            assert "its tombstone was changed, or not laid by prune: its code does not fit" in found

    def test_one_that_is_deleted_is_missed(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]
    ) -> None:
        tampered(engine, lambda connection, it: connection.execute(delete(tombstones)), run)
        (checked,) = engine.audit(None, heads)
        assert checked.problems == ("it was there when the heads were exported, and is gone",)

    def test_one_of_a_shorter_history_is_told(
        self, engine: InProcessEngine, run: str, heads: dict[str, tuple[int, str]]
    ) -> None:
        longer = {run: (heads[run][0] + 1, "ab" * 32)}
        (checked,) = engine.audit(None, longer)
        assert "the end was cut off" in checked.problems[0]


# --- runs whose values were erased ------------------------------------------------------------------------------------


def wrote_back(connection: Connection, run: str) -> None:
    connection.execute(update(checkpoints).where(checkpoints.c.run == run).values(delta='"Ann"'))


def changed_the_rest(connection: Connection, run: str) -> None:
    data = connection.execute(select(events.c.data).where(_of(run, 1))).scalar_one()
    connection.execute(update(events).where(_of(run, 1)).values(data=data.replace("default", "another")))


def erased_by_hand(connection: Connection, run: str) -> None:
    connection.execute(update(events).where(_of(run, 2)).values(data=f'{{"audit.erased":"{"0" * 64}"}}'))


def said_to_be_there(connection: Connection, run: str) -> None:
    connection.execute(update(runs).where(runs.c.id == run).values(erased_at=None))


FOUND_ERASED: dict[Tamper, str] = {
    wrote_back: "a row of checkpoints (a): delta holds a value, its run was erased",
    changed_the_rest: "event 1 (run.accepted) was changed: its code does not fit",
    erased_by_hand: "event 2 (stage.begun) was changed: its code does not fit",
    said_to_be_there: "the run's row: erased_at was changed",
}


@pytest.mark.parametrize("tamper", FOUND_ERASED)
def test_whatever_is_done_to_an_erased_run_is_found(engine: InProcessEngine, run: str, tamper: Tamper) -> None:
    heads = {head_of: (seq, mac) for head_of, seq, mac in engine.audit_heads()}
    engine.erase(run, **WHO)
    assert [checked.problems for checked in engine.audit(None, heads)] == [()]
    tampered(engine, tamper, run)
    (checked,) = engine.audit([run])
    assert FOUND_ERASED[tamper] in checked.problems


def test_erasing_hides_no_tampering_that_came_before(engine: InProcessEngine, run: str) -> None:
    tampered(engine, paid_twice, run)
    engine.erase(run, **WHO)
    (checked,) = engine.audit([run])
    assert checked.problems == ("before its values were erased: checkpoint c: delta was changed",)


def test_a_process_without_the_audit_key_erases_nothing(engine: InProcessEngine, run: str) -> None:
    blind = SqlStore(Database(database_of(engine).url.render_as_string(hide_password=False)))
    with pytest.raises(NotAllowed, match="set STAGEFLOW_AUDIT_KEY"):
        blind.erase(Order(run, "erase", "because", "ops"))
    blind.close()
    assert [checked.problems for checked in engine.audit([run])] == [()]
