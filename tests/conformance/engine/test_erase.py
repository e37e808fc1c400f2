"""Erasing a run's values: what goes, what stays, and what nobody can do any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import fakeredis
import pytest
from pydantic import BaseModel

from stageflow_durable import Actor, Pipeline, RetryPolicy, StageOutput, Submission
from stageflow_durable.errors import (
    IdempotencyParamMismatch,
    InvalidInput,
    NotAllowed,
    OperatorConflict,
    RunCompensated,
    RunError,
    RunFailed,
    StoreUnavailable,
    UnknownRun,
    ValuesErased,
)
from stageflow_durable.idempotency import IdempotencyInterceptor, MemoryIdempotencyStore, RedisIdempotencyStore

MakeEngine = Callable[..., Any]
SECRET = "Ann-Example"


class Order(BaseModel):
    order_id: str
    name: str


def whole(value: Any) -> str:
    return json.dumps(value, default=repr)


def test_what_a_run_was_given_saved_and_said_is_gone_and_its_history_is_whole(make_engine: MakeEngine) -> None:
    def greet(ctx: Any) -> dict[str, str]:
        ctx.emit("app.greeted", whom=ctx.input.name)
        if ctx.attempt == 1:
            raise ConnectionError(f"no answer for {ctx.input.name}")
        return {"greeting": f"Dear {ctx.input.name}"}

    quick = RetryPolicy(max_attempts=2, base_delay=0.001, jitter="none")
    pipeline: Pipeline[Any, Any] = Pipeline("p", input_type=Order).stage("greet", greet, retry=quick)
    engine = make_engine(pipeline.wait_for("w").approve("sure", of=lambda ctx: {"to": ctx.input.name}))
    handle = engine.enqueue(
        "p",
        Order(order_id="A-1", name=SECRET),
        client_id="web",
        idempotency_key="k-1",
        metadata={"who": SECRET},
        attributes={"customer": SECRET},
    )
    engine.work()
    engine.clock.advance(1)
    engine.sweep()
    engine.work()
    engine.signal(handle.run_id, "w", {"from": SECRET}, reason=f"{SECRET} called", idempotency_key="s-1")
    engine.work()
    engine.approve(handle.run_id, "sure", reason=f"{SECRET} may", actor="bob")
    engine.drain()
    assert handle.status() == "succeeded"
    before = handle.history()
    assert SECRET in whole([handle.describe(), before])

    erased = engine.erase(handle.run_id, reason="request 7", actor=Actor("dpo", authenticated=True))

    assert (erased.status, erased.erased_at is not None) == ("succeeded", True)
    run = handle.describe()
    assert SECRET not in whole([run, handle.history(), engine.runs(), kept(engine)])
    assert (run.erased.actor, run.erased.reason, run.erased.at) == ("dpo", "request 7", run.erased_at)
    assert (run.input, run.metadata, run.attributes, run.key) == (None, {}, {}, "k-1")
    assert [attempt.state for attempt in run.stage("greet").attempts] == ["retry", "ok"]
    after = handle.history()
    assert [(e.seq, e.type, e.at) for e in after[:-1]] == [(e.seq, e.type, e.at) for e in before]
    assert after[-1].type == "operator.erase"
    assert (after[-1].data["actor"], after[-1].data["authenticated"]) == ("dpo", True)
    assert [e.data.get("actor") for e in after if e.type == "operator.approve"] == ["bob"]
    assert [one.problems for one in engine.audit()] == [()]
    assert engine.runs(attributes={"customer": SECRET}) == []


def kept(engine: Any) -> Any:
    """Everything that the store keeps, row by row."""
    store = engine.store
    tables = getattr(store, "_tables", None)
    if tables is not None:
        return [list(rows) for rows in (*tables.of_runs, tables.runs, tables.keys)]
    from sqlalchemy import select

    from stageflow_durable.state.tables import runs

    with store.database.read() as connection:
        return [
            [list(map(str, row)) for row in connection.execute(select(table))]
            for table in runs.metadata.tables.values()
        ]


def ended(make_engine: MakeEngine, *, fails: bool = False, **more: Any) -> tuple[Any, Any]:
    """A run that is over."""

    def body(ctx: Any) -> Any:
        return StageOutput.fail(f"not {ctx.input['name']}") if fails else {"name": ctx.input["name"]}

    engine = make_engine(Pipeline("p").stage("a", body), **more)
    handle = engine.enqueue("p", {"name": SECRET}, client_id="web", idempotency_key="k-1")
    engine.drain()
    return engine, handle


def erase(engine: Any, handle: Any, **more: Any) -> Any:
    return engine.erase(handle.run_id, reason="request 7", actor="dpo", **more)


def test_its_key_stays_taken(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine)
    erase(engine, handle)
    again = engine.enqueue("p", {"name": SECRET}, client_id="web", idempotency_key="k-1")
    assert (again.run_id, again.replayed) == (handle.run_id, True)
    with pytest.raises(IdempotencyParamMismatch, match="parameters"):
        engine.enqueue("p", {"name": "somebody else"}, client_id="web", idempotency_key="k-1")
    again = engine.enqueue_many("p", [Submission({"name": SECRET}, idempotency_key="k-1", client_id="web")])[0]
    assert (again.run_id, again.replayed) == (handle.run_id, True)


def test_nobody_can_do_anything_with_it_and_each_verb_says_why(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine, fails=True)
    erase(engine, handle)
    how = {"reason": "r", "actor": "ann"}
    for verb in (engine.resume, engine.cancel, engine.compensate, engine.reveal):
        with pytest.raises(NotAllowed, match="its values were erased"):
            verb(handle.run_id, **how)
    with pytest.raises(NotAllowed, match="its values were erased"):
        engine.settle(handle.run_id, "a", not_done=True, **how)
    with pytest.raises(NotAllowed, match="its values were erased"):
        engine.fork(handle.run_id, "a", **how)
    with pytest.raises(RunFailed, match="its values were erased"):
        handle.result(timeout=1)
    assert [e.data["cause"] for e in handle.history() if e.type == "run.failed"] == ["failed"]


def test_a_result_that_is_gone_is_an_error_and_not_none(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine)
    assert handle.outputs() == {"a": {"name": SECRET}}
    erase(engine, handle)
    with pytest.raises(ValuesErased, match="its values were erased"):
        handle.result(timeout=1)
    with pytest.raises(ValuesErased, match="its values were erased"):
        handle.outputs()


def test_it_is_erased_once(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine)
    first = erase(engine, handle)
    again = engine.erase(handle.run_id, reason="once more", actor="ann")
    assert again == first
    assert handle.describe().erased.actor == "dpo"


def test_a_run_that_has_not_ended_is_not_erased(make_engine: MakeEngine) -> None:
    parks: Pipeline[Any, Any] = Pipeline("parks", on_failure="park").stage("a", lambda _ctx: StageOutput.fail("no"))
    engine = make_engine(Pipeline("waits").wait_for("w"), parks)
    waits, parked = engine.enqueue("waits", {}), engine.enqueue("parks", {"name": SECRET})
    engine.work()
    with pytest.raises(NotAllowed, match="it is waiting, and its stages need its values"):
        erase(engine, waits)
    with pytest.raises(NotAllowed, match="it is parked: .*stageflow cancel"):
        erase(engine, parked)
    engine.cancel(parked.run_id, reason="r", actor="ann")
    engine.work()
    erase(engine, parked)
    assert SECRET not in whole(kept(engine))


def test_who_may_not_erases_nothing(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine, authorize=lambda _actor, verb, _run: verb != "erase")
    with pytest.raises(NotAllowed, match="ann may not erase"):
        engine.erase(handle.run_id, reason="r", actor="ann")
    with pytest.raises(InvalidInput, match="reason"):
        engine.erase(handle.run_id, reason=" ", actor="ann")
    with pytest.raises(UnknownRun):
        engine.erase("0" * 26, reason="r", actor="ann")
    assert handle.outputs() == {"a": {"name": SECRET}}


def test_a_run_that_was_changed_since_it_was_looked_at_is_not_erased(make_engine: MakeEngine) -> None:
    engine, handle = ended(make_engine, fails=True)
    seen = handle.describe().op_version
    engine.resume(handle.run_id, reason="r", actor="ann")
    engine.drain()
    with pytest.raises(OperatorConflict):
        erase(engine, handle, op_version=seen)


def test_a_business_key_stays_taken_and_its_result_is_gone(make_engine: MakeEngine) -> None:
    calls: list[str] = []

    def body(ctx: Any) -> dict[str, str]:
        calls.append(ctx.run_id)
        return {"name": SECRET}

    keyed = Pipeline("p").stage("a", body, key=lambda ctx: ctx.input["order"])
    engine = make_engine(keyed)
    first = engine.enqueue("p", {"order": "A-1", "name": SECRET})
    engine.drain()
    erase(engine, first)
    assert SECRET not in whole(kept(engine))
    assert [one.problems for one in engine.audit()] == [()]
    second = engine.enqueue("p", {"order": "A-1", "name": "another"})
    engine.drain()
    assert calls == [first.run_id]
    with pytest.raises(RunFailed, match="what it gave was erased"):
        second.result(timeout=1)


def test_saved_steps_are_erased_too(make_engine: MakeEngine) -> None:
    def body(ctx: Any) -> dict[str, int]:
        ctx.step("ask", lambda name: {"answer": name}, ctx.input["name"])
        return {"n": 1}

    engine = make_engine(Pipeline("p").stage("a", body))
    handle = engine.enqueue("p", {"name": SECRET})
    engine.drain()
    assert SECRET in whole(kept(engine))
    erase(engine, handle)
    assert SECRET not in whole([kept(engine), handle.describe(), handle.history()])
    assert [one.problems for one in engine.audit()] == [()]


def test_a_body_cannot_note_what_passes_for_erased(make_engine: MakeEngine) -> None:
    engine = make_engine(
        Pipeline("p").stage("a", lambda ctx: ctx.emit("app.said", **{"audit.erased": "0" * 64, "whom": SECRET}))
    )
    handle = engine.enqueue("p", {})
    engine.drain()
    assert [one.problems for one in engine.audit()] == [()]
    erase(engine, handle)
    assert SECRET not in whole(kept(engine))
    assert [one.problems for one in engine.audit()] == [()]


def test_what_was_undone_is_erased_too(make_engine: MakeEngine) -> None:
    def undo(ctx: Any) -> None:
        ctx.input["name"].upper()

    pipeline: Pipeline[Any, Any] = Pipeline("p").stage("a", lambda ctx: {"n": ctx.input["name"]}, compensate=undo)
    engine = make_engine(pipeline.stage("b", lambda ctx: StageOutput.fail(f"no {ctx.input['name']}")))
    handle = engine.enqueue("p", {"name": SECRET})
    engine.drain()
    erase(engine, handle)
    assert SECRET not in whole([kept(engine), handle.describe(), handle.history()])
    assert [one.problems for one in engine.audit()] == [()]
    with pytest.raises(RunCompensated, match="its values were erased"):
        handle.result(timeout=1)


# --- what is remembered elsewhere -------------------------------------------------------------------------------------


def test_what_an_interceptor_remembers_in_redis_goes_too_and_its_key_stays_taken(make_engine: MakeEngine) -> None:
    redis, calls = fakeredis.FakeRedis(), []

    def body(ctx: Any) -> dict[str, str]:
        calls.append(ctx.run_id)
        return {"name": ctx.input["name"]}

    guard = IdempotencyInterceptor(RedisIdempotencyStore(redis), key_extractor=lambda ctx: ctx.input["order"])
    engine = make_engine(Pipeline("p").stage("a", body), interceptors=[guard])
    first = engine.enqueue("p", {"order": "A-1", "name": SECRET})
    engine.drain()
    assert SECRET in remembered(redis)
    erase(engine, first)
    assert remembered(redis) != ""
    assert SECRET not in remembered(redis)
    second = engine.enqueue("p", {"order": "A-1", "name": "another"})
    engine.drain()
    assert calls == [first.run_id]
    with pytest.raises(RunError, match="what it gave was erased"):
        second.result(timeout=1)


def remembered(redis: Any) -> str:
    return repr([redis.hgetall(key) for key in redis.keys("*")]) if redis.keys("*") else ""


def test_where_redis_is_away_nothing_is_erased(make_engine: MakeEngine) -> None:
    class Away(MemoryIdempotencyStore):
        def forget(self, scope: Any, key: str) -> None:
            raise StoreUnavailable("Redis did not answer")

    engine, handle = ended(make_engine, interceptors=[IdempotencyInterceptor(Away())])
    with pytest.raises(StoreUnavailable):
        erase(engine, handle)
    assert handle.outputs() == {"a": {"name": SECRET}}
