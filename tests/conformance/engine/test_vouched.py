"""The history vouches for the rows beside it: whoever changes one in the tables is found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import Boolean, Double, Integer, Table, and_, delete, insert, select, update
from sqlalchemy.exc import DBAPIError

from stageflow_durable import StageOutput
from stageflow_durable.model.status import StrandState
from stageflow_durable.state.idempotency_keys import idempotency_keys
from stageflow_durable.state.metadata import metadata
from stageflow_durable.state.tables import (
    attempts,
    checkpoints,
    definitions,
    events,
    item_groups,
    items,
    runs,
    saga_steps,
    strands,
    tombstones,
)
from stageflow_durable.store import vouched
from stageflow_durable.store.audit import old_tombstone_code, seal
from stageflow_durable.store.values import Checked
from stageflow_durable.testing import FakeClock, InProcessEngine, engine_for_tests
from stageflow_durable.transitions.accept import GENESIS
from tests.conformance.engine.acts import DIAMOND, DIES, FAILS, Acts
from tests.conformance.engine.conftest import AUDIT_KEY
from tests.items import items_for, over
from tests.services.rows import database_of

pytestmark = pytest.mark.sql

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}
CARD = "4111 1111 1111 1111"


@pytest.fixture
def engine(way: tuple[str, bool], clock: FakeClock, acts: Acts) -> Iterator[InProcessEngine]:
    """An engine whose tables may be falsified: nobody watches the invariants."""
    with engine_on(way, clock, acts) as made:
        yield made


def engine_on(way: tuple[str, bool], clock: FakeClock, acts: Acts, **more: Any) -> Any:
    """An engine with a line that has a key and a pivot, and a graph."""
    line = acts.line("a b c d", a={"key": lambda ctx: str(ctx.input["order"])}, c={"pivot": True})
    many = acts.line("k l m", name="many")
    options: dict[str, Any] = {"database_url": way[0], "optimistic": way[1], "clock": clock, "audit_key": AUDIT_KEY}
    told = acts.line("a", name="told").wait_for("word", timeout=timedelta(days=1))
    asked = acts.line("a", name="asked").approve("release", lambda _ctx: {"amount": 5}, timeout=timedelta(days=1))
    return engine_for_tests([line, acts.graph(**DIAMOND), many, told, asked], **options | more)


def scenario(engine: InProcessEngine, acts: Acts) -> None:
    """Runs of many fates: some ended, some parked, one forked, one pruned, one replayed, one running, one untouched."""
    order = iter(range(100))

    def run(name: str = "line", **more: Any) -> str:
        handle = engine.enqueue(name, {"order": next(order), "card": CARD}, metadata={"m": 1}, **more)
        engine.drain()
        return handle.run_id

    run(client_id="old")
    engine.advance(86_400 * 31)
    engine.prune(timedelta(days=30))

    first = run(idempotency_key="k1", priority=3)
    engine.enqueue("line", {"order": 1, "card": CARD})  # its key's result is replayed
    engine.drain()
    engine.fork(first, "c", **WHO)
    engine.drain()
    run("graph")
    acts.play("b", lambda ctx: ctx.emit("shop.seen", card=1), FAILS("no stock"))
    run()
    run()  # undone
    acts.play("b", FAILS("no"))
    acts.play("undo a", FAILS("stuck"))
    run()  # an undo failed
    acts.play("b", TypeError("a slip"), DIES, StageOutput.skip("not needed"))
    engine.resume(run(), **WHO)
    engine.drain()
    acts.play("c", FAILS("perhaps"))
    engine.settle(run(), "c", done={"said": 1}, **WHO)
    engine.drain()
    acts.play("right", TimeoutError("slow"))
    engine.enqueue("graph", {})
    while engine.step():
        pass  # one branch waits for its retry, before the join
    engine.cancel(engine.enqueue("graph", {}).run_id, **WHO)
    with items_for({("many", "l"): over(*range(20), collects=True)}):
        acts.play("l", FAILS("one of many"))
        run("many")
        acts.play("m", FAILS("no"))
        run("many")  # each item is undone
        acts.play("l", TimeoutError("slow"))
        engine.enqueue("many", {})
        for _step in range(12):
            engine.step()  # some are done, one waits
    acts.play("a", lambda ctx: ctx.step("send", str, "x", key="k"))
    told = engine.enqueue("told", {}).run_id
    engine.signal(told, "word", {"said": 1}, idempotency_key="s1", **WHO)
    engine.drain()
    approved(engine)
    acts.play("a", DIES)
    engine.enqueue("line", {"order": -1}, deadline=timedelta(days=1))
    while engine.step():
        pass  # its process is lost, and nobody knows yet
    engine.enqueue("line", {"order": -2})


def approved(engine: InProcessEngine) -> None:
    """A run that went on because somebody approved it by a link, while another one was left."""
    run = engine.enqueue("asked", {}).run_id
    used, _left = (engine.approval_link(run, "release", to=name).rpartition("/")[2] for name in ("ann", "max"))
    engine.work()
    asked = engine.open_approval_link(used).stage.approval
    assert asked is not None
    engine.decide_by_link(used, "approve", digest=asked.digest, reason="it is right")
    engine.drain()


def broken(engine: InProcessEngine) -> list[Checked]:
    """What is not whole."""
    return [checked for checked in engine.audit() if checked.problems]


def edited(engine: InProcessEngine, statement: Any, given: Mapping[Any, Any] | Sequence[Any] | None = None) -> None:
    """Do it in the tables, behind the engine's back."""
    with database_of(engine).transaction() as connection:
        connection.execute(statement, given)


def rows(engine: InProcessEngine, table: Table) -> Sequence[Mapping[Any, Any]]:
    """All rows of a table."""
    with database_of(engine).read() as connection:
        return connection.execute(select(table).order_by(*table.primary_key.columns)).mappings().all()


def this(table: Table, row: Mapping[Any, Any]) -> Any:
    return and_(*(column == row[column.name] for column in table.primary_key.columns))


def test_runs_of_every_fate_are_whole_and_their_history_vouches_for_all_of_it(
    engine: InProcessEngine, acts: Acts
) -> None:
    scenario(engine, acts)
    found = list(engine.audit())
    assert [checked.problems for checked in found if checked.problems] == []
    assert {checked.rows for checked in found} == {True}
    assert len(found) == len(rows(engine, runs)) >= 12
    seen = {(table.name, column) for table in metadata.tables.values() for row in rows(engine, table) for column in row}
    covered = {(table, column) for table, columns in vouched.COVERED.items() for column in columns}
    assert covered <= seen  # there is a row of each kind to be falsified


def test_every_column_is_covered_or_there_is_a_reason_why_not() -> None:
    for table in metadata.tables.values():
        covered = vouched.COVERED.get(table.name, {}).keys()
        uncovered = vouched.UNCOVERED.get(table.name, {}).keys()
        assert covered & uncovered == set()
        assert covered | uncovered == {column.name for column in table.columns}, table.name
    assert vouched.COVERED.keys() | vouched.UNCOVERED.keys() == metadata.tables.keys()


# --- one column -------------------------------------------------------------------------------------------------------

TABLES = {table.name: table for table in metadata.tables.values()}
COLUMNS = sorted((table, column) for table, columns in vouched.COVERED.items() for column in columns)
_STATES = {
    "phase": ["forward", "draining", "backward", "settled"],
    "status": ["running", "waiting", "succeeded", "failed", "cancelled", "parked", "compensated", "pending"],
    "cause": ["failed", "cancelled", "deadline", "operator"],
    "park_reason": ["unknown", "poison", "bug", "operator"],
    "state": [
        *("ok", "failed", "unknown", "retry", "void", "recorded", "intended", "compensated", "skipped", "rest"),
        *("done", "ready", "running", "settled"),
    ],
    "direction": ["forward", "backward"],
    "outcome": ["ok", "unknown"],
}


def others(table: Table, name: str, value: Any, among: Sequence[Any]) -> list[Any]:
    """Values that somebody might put there instead; ``among``: those that other rows have in that column."""
    column = table.c[name]
    if isinstance(column.type, Boolean):
        return [not value]
    made: list[Any] = [other for other in among if other is not None]
    if isinstance(column.type, Integer | Double):
        made += [0, 1, -1] if value is None else [value + 1, 0]
    else:
        made += [*_STATES.get(name, []), "{}" if value is None else f"{value}x"]
    return [other for other in [*made, *([None] if column.nullable else [])] if other != value]


def claimed(table: Table, name: str, row: Mapping[Any, Any], other: Any) -> bool:
    """Whether the change is one that ``vouched`` says is found."""
    if table is idempotency_keys:
        return bool(row["state"] == "done")
    if table is not strands:
        return True
    forward, moving = row["direction"] == "forward", row["state"] != StrandState.DONE
    if name == "state":
        idle = {StrandState.READY, StrandState.WAITING}
        runs_or_not = StrandState.RUNNING in (row["state"], other)
        return runs_or_not or (forward and not {row["state"], other} <= idle)
    if name in ("owner", "attempt"):
        return bool(row["state"] == StrandState.RUNNING)
    return moving and forward and other in (*"abcdxklm", "left", "right", "join", "backward", "z")


def falsified(engine: InProcessEngine, table: Table, name: str, row: Mapping[Any, Any], other: Any) -> bool:
    """Whether the database takes the change; what it refuses needs no audit."""
    change = update(table).where(this(table, row)).values({name: other})
    try:
        edited(engine, change)
    except DBAPIError:
        return False
    return True


@pytest.fixture
def world(engine: InProcessEngine, acts: Acts) -> InProcessEngine:
    """An engine that has been through the scenario."""
    scenario(engine, acts)
    assert broken(engine) == []
    return engine


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.generate],
)
@given(data=st.data())
def test_whatever_covered_value_is_changed_in_whichever_row_it_is_found(world: InProcessEngine, data: Any) -> None:
    table_name, name = data.draw(st.sampled_from(COLUMNS))
    table = TABLES[table_name]
    there = rows(world, table)
    row = data.draw(st.sampled_from(there))
    among = sorted({other[name] for other in there if other[name] is not None}, key=str)[:5]
    wanted = [other for other in others(table, name, row[name], among) if claimed(table, name, row, other)]
    if not wanted:
        return
    other = data.draw(st.sampled_from(wanted))
    if not falsified(world, table, name, row, other):
        return
    try:
        assert broken(world), f"{table.name}.{name} of {dict(row)} is {other!r} now, and nobody found it"
    finally:
        back = update(table).where(this(table, {**row, name: other})).values(dict(row))
        edited(world, back)
    assert broken(world) == []


@pytest.mark.parametrize(
    "table", [attempts, checkpoints, saga_steps, events, runs, items, item_groups], ids=lambda table: table.name
)
def test_a_row_that_is_deleted_is_missed(world: InProcessEngine, table: Table) -> None:
    there = rows(world, table)
    for row in there[:: 1 + len(there) // 12]:
        edited(world, delete(table).where(this(table, row)))
        assert broken(world), f"{dict(row)} is gone, and nobody missed it"
        edited(world, insert(table), dict(row))
    assert broken(world) == []


def test_an_event_that_cannot_even_be_read_any_more_is_found(world: InProcessEngine) -> None:
    of_each_kind = {(row["type"], row["item"] > 0): row for row in rows(world, events)}
    for row in of_each_kind.values():
        edited(world, update(events).where(this(events, row)).values(data=f"{row['data']}x"))
        assert [checked.run_id for checked in broken(world)] == [row["run"]]
        edited(world, update(events).where(this(events, row)).values(data=row["data"]))
    assert broken(world) == []


def test_a_strand_with_work_left_is_missed(world: InProcessEngine) -> None:
    for row in rows(world, strands):
        if row["direction"] == "forward" and row["state"] != StrandState.DONE:
            edited(world, delete(strands).where(this(strands, row)))
            assert broken(world)
            edited(world, insert(strands), dict(row))


# --- what somebody with SQL would do ----------------------------------------------------------------------------------


def of(table: Table, run: str, stage: str) -> Any:
    return and_(table.c.run == run, table.c.stage == stage)


@pytest.fixture
def two(engine: InProcessEngine, acts: Acts) -> tuple[str, str]:
    """Two runs that have ended; their outputs are not alike."""
    acts.play("b", {"paid": 1}, {"paid": 2})
    handles = [engine.enqueue("line", {"order": n, "card": CARD}) for n in range(2)]
    engine.drain()
    assert broken(engine) == []
    return handles[0].run_id, handles[1].run_id


def named(engine: InProcessEngine, run: str) -> str:
    return "; ".join(problem for checked in broken(engine) if checked.run_id == run for problem in checked.problems)


def test_an_input_that_was_changed_is_named(engine: InProcessEngine, two: tuple[str, str]) -> None:
    edited(engine, update(runs).where(runs.c.id == two[0]).values(input='{"order":0,"card":"1"}'))
    assert "what it was given was changed (input" in named(engine, two[0])
    assert named(engine, two[1]) == ""


def test_an_output_that_was_changed_is_named(engine: InProcessEngine, two: tuple[str, str]) -> None:
    edited(engine, update(checkpoints).where(of(checkpoints, two[0], "b")).values(delta='{"paid":9}'))
    assert named(engine, two[0]) == "checkpoint b: delta was changed"


def test_outputs_that_were_swapped_between_runs_are_found_in_both(
    engine: InProcessEngine, two: tuple[str, str]
) -> None:
    deltas = {row["run"]: row["delta"] for row in rows(engine, checkpoints) if row["stage"] == "b"}
    for run, other in (two, two[::-1]):
        change = update(checkpoints).where(of(checkpoints, run, "b")).values(delta=deltas[other])
        edited(engine, change)
    assert [named(engine, run) for run in two] == ["checkpoint b: delta was changed"] * 2


def test_outputs_that_were_swapped_between_stages_are_found(engine: InProcessEngine, two: tuple[str, str]) -> None:
    for stage, other in (("a", "?"), ("b", "a"), ("?", "b")):
        change = update(checkpoints).where(of(checkpoints, two[0], stage)).values(stage=other)
        edited(engine, change)
    assert "checkpoint a: delta was changed" in named(engine, two[0])


def test_rows_that_nobody_wrote_are_found(engine: InProcessEngine, acts: Acts) -> None:
    run = engine.enqueue("line", {"order": 1}).run_id
    new = {"run": run, "stage": "b", "skipped": False, "delta": "1", "saved_schema": 1, "at": 1.0}
    edited(engine, insert(checkpoints), new)
    assert "checkpoint b was added: no event tells of it" in named(engine, run)


def test_a_run_that_was_made_in_the_tables_is_found(engine: InProcessEngine, two: tuple[str, str]) -> None:
    row = next(row for row in rows(engine, runs) if row["id"] == two[0])
    told = [{**event, "run": "MADE"} for event in rows(engine, events) if event["run"] == two[0]]
    edited(engine, insert(runs), {**row, "id": "MADE", "key": "made"})
    assert "the end was cut off" in named(engine, "MADE")
    edited(engine, insert(events), told)
    assert "no event has a code by this key" in named(engine, "MADE")


def test_what_a_history_says_is_no_hash_that_could_be_guessed(engine: InProcessEngine, two: tuple[str, str]) -> None:
    # Under another key the same run with the same input says something else.
    texts = " ".join(event["data"] for event in rows(engine, events))
    assert CARD not in texts
    codes = {json.loads(event["data"])["audit"]["run"]["given"] for event in rows(engine, events) if event["seq"] == 1}
    assert len(codes) == 2
    row = next(row for row in rows(engine, runs) if row["id"] == two[0])
    again = [row[name] for name in vouched.GIVEN]
    assert vouched.given_code(AUDIT_KEY.encode(), two[0], again) in codes
    assert vouched.given_code(b"guessed", two[0], again) not in codes


def test_the_history_that_people_read_is_without_the_entries_for_the_audit(
    engine: InProcessEngine, two: tuple[str, str]
) -> None:
    assert not [event for event in engine.history(two[0]) if "audit" in event.data]


# --- runs of before, and without a key --------------------------------------------------------------------------------


def test_without_a_key_nothing_is_said_of_rows_and_the_runs_say_so(
    way: tuple[str, bool], clock: FakeClock, acts: Acts
) -> None:
    with engine_on(way, clock, acts, audit_key=None) as engine:
        engine.enqueue("line", {"order": 1})
        engine.drain()
        assert not [event for event in rows(engine, events) if "audit" in json.loads(event["data"])]
        assert [(checked.problems, checked.rows) for checked in engine.audit()] == [((), False)]


def test_runs_of_before_verify_as_before(engine: InProcessEngine, two: tuple[str, str]) -> None:
    """As an earlier release wrote them: the same events, without what they say of rows."""
    written_before(engine, two[0])
    edited(engine, update(checkpoints).where(checkpoints.c.run == two[0]).values(delta="0"))
    found = {checked.run_id: checked for checked in engine.audit()}
    assert (found[two[0]].problems, found[two[0]].rows) == ((), False)
    assert found[two[1]].rows


def written_before(engine: InProcessEngine, run: str) -> None:
    previous = GENESIS
    for event in rows(engine, events):
        if event["run"] == run:
            data = {name: value for name, value in json.loads(event["data"]).items() if name != "audit"}
            text = json.dumps(data)
            made = seal(AUDIT_KEY.encode(), run, event["seq"], event["type"], event["at"], text, previous)
            change = update(events).where(this(events, event)).values(**made._asdict())
            edited(engine, change)
            previous = made.mac
    edited(engine, update(runs).where(runs.c.id == run).values(head=previous))


def test_a_run_that_an_earlier_release_carried_for_a_while_is_checked_for_what_it_was_given(
    engine: InProcessEngine, two: tuple[str, str]
) -> None:
    last = max((event for event in rows(engine, events) if event["run"] == two[0]), key=lambda event: event["seq"])
    text = json.dumps({"cause": None})
    made = seal(AUDIT_KEY.encode(), two[0], last["seq"], last["type"], last["at"], text, last["previous"])
    edited(engine, update(events).where(this(events, last)).values(**made._asdict()))
    edited(engine, update(runs).where(runs.c.id == two[0]).values(head=made.mac))
    assert named(engine, two[0]) == ""
    edited(engine, update(runs).where(runs.c.id == two[0]).values(client_id="other"))
    assert "what it was given was changed" in named(engine, two[0])


def test_a_definition_that_was_changed_is_found(engine: InProcessEngine, two: tuple[str, str]) -> None:
    edited(engine, update(definitions).values(body=definitions.c.body + " "))
    assert "its definition is missing or was changed" in named(engine, two[0])


def test_a_tombstone_that_an_earlier_release_laid_is_good(engine: InProcessEngine, two: tuple[str, str]) -> None:
    engine.advance(86_400 * 31)
    assert engine.prune(timedelta(days=30)) == 2
    for row in rows(engine, tombstones):
        old = old_tombstone_code(AUDIT_KEY.encode(), row["run"], row["status"], row["seq"], row["head"])
        change = update(tombstones).where(this(tombstones, row)).values(mac=old)
        edited(engine, change)
    assert broken(engine) == []
