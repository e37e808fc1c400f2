"""The transaction of ``ctx.session`` is the engine's: who ends it is refused or found out, who keeps its connection
gets it alone, and what a stage asks of the engine meanwhile does not wait for the stage itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text

from stageflow_durable import RetryPolicy, RunStatus, StageOutput, TransientError
from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.status import ParkReason
from tests.conformance.engine.acts import Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.own_table import OwnTable
from tests.services.rows import database_of

pytestmark = pytest.mark.sql

NOTES = OwnTable("shop_notes")
notes, written, own_table = NOTES.table, NOTES.written, NOTES.fixture()
SOON = RetryPolicy(max_attempts=2, base_delay=0.1)


def write(ctx: Any, what: str = "note") -> None:
    NOTES.write(ctx, what)


def _raw(ctx: Any) -> Any:
    return ctx.session.connection().connection.driver_connection


CONTROLS: dict[str, Callable[[Any], object]] = {
    "COMMIT as text": lambda ctx: ctx.session.execute(text("COMMIT")),
    "commit in lower case, with a comment": lambda ctx: ctx.session.execute(text("/* so */ commit")),
    "COMMIT by the connection": lambda ctx: ctx.session.connection().exec_driver_sql("COMMIT"),
    "ROLLBACK as text": lambda ctx: ctx.session.execute(text("ROLLBACK")),
    "BEGIN as text": lambda ctx: ctx.session.execute(text("BEGIN")),
    "the session's commit": lambda ctx: ctx.session.commit(),
    "the connection's commit": lambda ctx: ctx.session.connection().commit(),
    "the transaction's commit": lambda ctx: ctx.session.connection().get_transaction().commit(),
    "the driver's commit": lambda ctx: _raw(ctx).commit(),
    "the driver's COMMIT": lambda ctx: _raw(ctx).execute("COMMIT"),
    "the connection closed": lambda ctx: ctx.session.connection().close(),
}


@pytest.mark.parametrize("control", CONTROLS.values(), ids=CONTROLS)
@pytest.mark.parametrize("then", ["raises", "returns"])
def test_who_ends_the_transaction_is_a_bug_and_is_not_called_again(
    make_engine: MakeEngine, acts: Acts, control: Callable[[Any], object], then: str
) -> None:
    def body(ctx: Any) -> None:
        write(ctx)
        if then == "returns":
            control(ctx)
            return
        with suppress(Exception):  # what was refused is refused to a stage that pays no heed as well
            control(ctx)
        raise TransientError("afterwards")

    acts.play("a", body, body)
    engine = make_engine(acts.line("a", a={"compensate": None}), retry=SOON)
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    refused = run.status is RunStatus.PARKED and run.park_reason is ParkReason.BUG and "ctx.session" in str(run.error)
    unhurt = then == "raises" and acts.log == ["a", "a"] and run.status is not RunStatus.SUCCEEDED
    assert refused or unhurt  # refused in time, it has written nothing: then its own error counts
    assert len(written(engine)) <= (1 if refused else 0)


def test_another_transaction_begun_below_the_session_is_found_at_the_checkpoint(
    make_engine: MakeEngine, acts: Acts, database_url: str
) -> None:
    def body(ctx: Any) -> None:
        write(ctx)
        if database_url.startswith("postgresql"):
            _raw(ctx).execute("COMMIT AND CHAIN")
        else:
            _raw(ctx).executescript("COMMIT; BEGIN")

    acts.play("a", body, body)
    engine = make_engine(acts.line("a", a={"compensate": None}), retry=SOON)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert acts.log[:1] == ["a"]
    assert handle.status() is not RunStatus.SUCCEEDED
    assert len(written(engine)) <= 1


def test_parts_of_the_transaction_and_its_rollback_are_the_stages_own(make_engine: MakeEngine, acts: Acts) -> None:
    def body(ctx: Any) -> None:
        write(ctx, "forgotten")
        ctx.session.rollback()
        write(ctx, "kept")
        with suppress(KeyError), ctx.session.begin_nested():
            write(ctx, "undone")
            raise KeyError
        with ctx.session.begin():
            write(ctx, "in a part")
        with ctx.session as session:
            session.execute(notes.insert(), {"what": "in a block"})

    acts.play("a", body)
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED, handle.describe().error
    assert written(engine) == ["kept", "in a part", "in a block"]


def test_a_connection_that_a_thread_still_holds_is_nobody_elses(make_engine: MakeEngine, acts: Acts) -> None:
    held: list[Any] = []
    refused: list[BaseException] = []

    def body(ctx: Any) -> None:
        write(ctx, "mine")
        held.append(_raw(ctx))

    acts.play("a", body)
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED

    def goes_on() -> None:
        try:
            held[0].execute("INSERT INTO shop_notes (what) VALUES ('late')")
        except Exception as error:  # noqa: BLE001  # whatever the driver says of a closed connection
            refused.append(error)

    thread = threading.Thread(target=goes_on)
    thread.start()
    thread.join()
    assert len(refused) == 1
    assert written(engine) == ["mine"]


def test_a_connection_that_nobody_holds_goes_back_to_the_pool(make_engine: MakeEngine, acts: Acts) -> None:
    drivers: list[int] = []
    engine = make_engine(acts.line("a b"))

    def body(ctx: Any) -> None:
        write(ctx)
        drivers.append(id(_raw(ctx)))

    acts.play("a", body)
    acts.play("b", body)
    engine.enqueue("line", {})
    engine.drain()
    assert len(set(drivers)) == 1


def test_what_a_stage_sets_on_its_connection_goes_with_it(make_engine: MakeEngine, acts: Acts) -> None:
    seen: list[Any] = []
    engine = make_engine(acts.line("a b"))
    postgres = not database_of(engine).is_sqlite
    change = "SET application_name = 'changed'" if postgres else "PRAGMA cache_size = 77"
    look = "SHOW application_name" if postgres else "PRAGMA cache_size"
    acts.play("a", lambda ctx: ctx.session.execute(text(change)) and None)
    acts.play("b", lambda ctx: seen.append(ctx.session.execute(text(look)).scalar()))
    engine.enqueue("line", {})
    engine.drain()
    assert seen != [] and seen[0] not in ("changed", 77)


def test_the_session_is_refused_when_the_stage_is_over(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    engine.enqueue("line", {})
    engine.drain()
    with pytest.raises(Exception, match="the stage is over"):
        _ = acts.contexts[0].session


def test_a_stage_enqueues_beside_its_session(make_engine: MakeEngine, acts: Acts) -> None:
    started: list[Any] = []
    engine = make_engine(acts.line("a"), acts.line("x", name="child"))

    def body(ctx: Any) -> str:
        write(ctx)
        child = engine.enqueue("child", {}, idempotency_key="child")
        started.append(child)
        assert child.status() is RunStatus.PENDING
        assert engine.enqueue("child", {}, idempotency_key="child").replayed
        write(ctx, "again")
        return str(child.run_id)

    acts.play("a", body)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.result() == {"a": started[0].run_id}
    assert started[0].result() == {"x": "x"}
    assert written(engine) == ["note", "again"]


@pytest.mark.parametrize("end", [TransientError("x"), StageOutput.fail("no")], ids=["raised", "failed"])
def test_what_a_stage_enqueued_beside_its_session_shares_its_fate_where_there_is_one_writer(
    make_engine: MakeEngine, acts: Acts, end: Any
) -> None:
    started: list[Any] = []
    engine = make_engine(acts.line("a"), acts.line("x", name="child"), retry=RetryPolicy(max_attempts=1))

    def body(ctx: Any) -> Any:
        write(ctx)
        started.append(engine.enqueue("child", {}))
        if isinstance(end, Exception):
            raise end
        return end

    acts.play("a", body)
    engine.enqueue("line", {})
    engine.drain()
    assert written(engine) == []
    if database_of(engine).is_sqlite:
        with pytest.raises(UnknownRun):
            started[0].status()
    else:
        assert started[0].status() is RunStatus.SUCCEEDED


def test_other_verbs_work_beside_a_stages_session(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"), acts.line("x", name="child"))
    other: list[Any] = []
    many: list[Any] = []

    def body(ctx: Any) -> None:
        write(ctx)
        engine.cancel(other[0].run_id, reason="not wanted", actor="a stage")
        many.extend(engine.enqueue_many("child", [_submission(n) for n in range(3)]))
        ctx.heartbeat("half")
        ctx.raise_if_cancelled()
        assert engine.runs(pipeline="child")

    acts.play("a", body)
    handle = engine.enqueue("line", {})
    other.append(engine.enqueue("child", {}))
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED, handle.describe().error
    assert other[0].status() is RunStatus.CANCELLED
    assert [one.status() for one in many] == [RunStatus.SUCCEEDED] * 3


def _submission(number: int) -> Any:
    from stageflow_durable import Submission

    return Submission({"n": number})


def test_waiting_for_a_result_in_a_stage_is_a_bug(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a", a={"compensate": None}), acts.line("x", name="child"))
    acts.play("a", lambda _ctx: engine.enqueue("child", {}).result(timeout=1))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "called inside a stage" in str(run.error)
    assert acts.log.count("a") == 1
