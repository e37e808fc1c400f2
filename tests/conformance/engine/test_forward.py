"""Going forward: each stage once, after what it waits for, seeing what its ancestors saved."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from stageflow_durable import Pipeline, RunStatus, StageContext, StageOutput, Submission
from stageflow_durable.errors import InvalidInput, UnknownPipeline
from stageflow_durable.model.status import ParkReason
from tests.conformance.engine.acts import DIAMOND, Acts
from tests.conformance.engine.conftest import MakeEngine

IN_PLACE = pytest.mark.parametrize("in_place", [1, 2, 50])


@IN_PLACE
def test_given_a_line_when_drained_then_each_stage_ran_once_in_order(
    make_engine: MakeEngine, acts: Acts, in_place: int
) -> None:
    engine = make_engine(acts.line("a b c d e"), in_place_stages=in_place)
    handle = engine.enqueue("line", {"n": 1})
    engine.drain()
    assert acts.log == ["a", "b", "c", "d", "e"]
    assert handle.status() is RunStatus.SUCCEEDED
    assert handle.outputs() == {name: name for name in "abcde"}
    assert [stage.tries for stage in handle.describe().stages] == [1] * 5


def test_stages_in_place_need_one_message(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b c d e"), in_place_stages=50)
    engine.enqueue("line", {})
    engine.drain()
    assert engine.messages.published == 1


@IN_PLACE
def test_given_branches_when_drained_then_the_join_came_after_both(
    make_engine: MakeEngine, acts: Acts, in_place: int
) -> None:
    engine = make_engine(acts.graph(**DIAMOND), in_place_stages=in_place)
    handle = engine.enqueue("graph", {})
    engine.drain()
    assert acts.log[0] == "a"
    assert sorted(acts.log[1:3]) == ["left", "right"]
    assert acts.log[3:] == ["join", "z"]
    assert handle.status() is RunStatus.SUCCEEDED


@IN_PLACE
def test_given_several_roots_and_joins_when_drained_then_every_stage_ran_once(
    make_engine: MakeEngine, acts: Acts, in_place: int
) -> None:
    pipeline = acts.graph(a="", b="", c="", ab="a b", bc="b c", tail="ab", all="tail bc")
    engine = make_engine(pipeline, in_place_stages=in_place)
    handle = engine.enqueue("graph", {})
    engine.drain()
    assert sorted(acts.log) == sorted(pipeline.by_name)
    assert acts.log[-1] == "all"
    assert handle.status() is RunStatus.SUCCEEDED


def test_branches_are_open_to_two_workers_at_once(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)
    other = engine.hired()
    acts.play("left", lambda _ctx: engine.step(other))  # while left runs here, right runs there
    handle = engine.enqueue("graph", {})
    engine.drain()
    left, right = (handle.describe().stage(name).attempts[0] for name in ("left", "right"))
    assert left.owner != right.owner
    assert acts.log == ["a", "left", "right", "join", "z"]


def test_a_stage_sees_what_its_ancestors_saved_and_nothing_else(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.graph(**DIAMOND), in_place_stages=1)
    engine.enqueue("graph", {})
    engine.drain()
    seen = {ctx.stage: set(ctx.outputs) for ctx in acts.contexts}
    assert seen == {
        "a": set(),
        "left": {"a"},
        "right": {"a"},
        "join": {"a", "left", "right"},
        "z": {"a", "left", "right", "join"},
    }


@IN_PLACE
@pytest.mark.parametrize("value", [None, False, 0, "", [], {}, 0.0], ids=repr)
def test_falsy_outputs_are_outputs(make_engine: MakeEngine, acts: Acts, in_place: int, value: Any) -> None:
    acts.play("a", value)
    engine = make_engine(acts.line("a b"), in_place_stages=in_place)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs() == {"a": value, "b": "b"}
    assert acts.contexts[-1].outputs == {"a": value}


def test_a_skipped_stage_has_no_output_and_what_follows_runs(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", StageOutput.skip("nothing to do"))
    engine = make_engine(acts.line("a b c"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs() == {"a": "a", "c": "c"}
    assert acts.contexts[-1].snapshot.skipped == {"b"}
    assert [str(stage.state) for stage in handle.describe().stages] == ["ok", "skipped", "ok"]


def test_a_stage_with_a_queue_of_its_own_gets_its_message_there(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b c", b={"queue": "gpu"}))
    engine.enqueue("line", {})
    engine.step()
    assert (engine.messages.depth("gpu"), engine.messages.depth("stageflow")) == (1, 0)
    engine.drain()
    assert acts.log == ["a", "b", "c"]
    assert engine.messages.published == 3


def test_the_context_says_who_and_what(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {"n": 1}, client_id="web", metadata={"trace": "t1"})
    engine.drain()
    ctx: StageContext[Any] = acts.contexts[0]
    assert (ctx.run_id, ctx.pipeline, ctx.stage, ctx.attempt) == (handle.run_id, "line", "a", 1)
    assert (ctx.input, ctx.client_id, ctx.metadata, ctx.deadline) == ({"n": 1}, "web", {"trace": "t1"}, None)
    assert ctx.idempotency_key == f"sf_{handle.run_id}_a"


class Order(BaseModel):
    """An input."""

    amount: int


class Receipt(BaseModel):
    """An output."""

    paid: int


def test_typed_inputs_outputs_and_results_are_values_of_their_types(make_engine: MakeEngine) -> None:
    def charge(ctx: StageContext[Order]) -> Receipt:
        return Receipt(paid=ctx.input.amount)

    def ship(ctx: StageContext[Order]) -> Receipt:
        return Receipt(paid=ctx.output("charge", Receipt).paid + 1)

    pipeline = Pipeline("typed", input_type=Order, result_type=Receipt).stage("charge", charge).stage("ship", ship)
    engine = make_engine(pipeline, in_place_stages=1)
    handle = engine.enqueue(pipeline, Order(amount=41))
    engine.drain()
    assert handle.result() == Receipt(paid=42)
    assert handle.outputs() == {"charge": {"paid": 41}, "ship": {"paid": 42}}


def test_an_input_that_does_not_validate_is_refused_by_field_and_nothing_is_recorded(make_engine: MakeEngine) -> None:
    pipeline = Pipeline("typed", input_type=Order).stage("a", lambda _ctx: None)
    engine = make_engine(pipeline)
    with pytest.raises(InvalidInput, match=r"amount: .*integer"):
        engine.enqueue("typed", {"amount": "many"})
    assert engine.runs() == []
    assert len(engine.messages) == 0


def test_a_pipeline_that_is_not_registered_is_refused_by_name(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    with pytest.raises(UnknownPipeline, match="knows: line"):
        engine.enqueue("elsewhere", {})
    with pytest.raises(UnknownPipeline):
        engine.enqueue(acts.line("a b"), {})


def test_many_runs_at_once(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    keys = [None, "k1", None, "k1"]
    handles = engine.enqueue_many("line", [Submission({"n": 1}, idempotency_key=key) for key in keys])
    engine.drain()
    ids = [handle.run_id for handle in handles if not isinstance(handle, Exception)]
    assert (len(ids), len(set(ids)), ids[1] == ids[3]) == (4, 3, True)
    assert acts.log == ["a", "b"] * 3


def test_events_that_a_body_emits_are_written_with_its_outcome(make_engine: MakeEngine, acts: Acts) -> None:
    def emits(ctx: Any) -> str:
        ctx.emit("order.priced", cents=42, kind="net")
        return "ok"

    acts.play("a", emits)
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    [event] = [event for event in handle.history() if event.type == "order.priced"]
    assert event.data == {"cents": 42, "kind": "net", "stage": "a", "origin": "body"}


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "stage.ok",
            "run.succeeded",
            "operator.cancel",
            "work.retry_attempt",
            "undo.begun",
            "RUN.parked",
            " run.parked",
        ),
        *(
            "stageflow.x",
            "interceptor.failed",
            "observer.failed",
            "run",
            "\N{FULLWIDTH LATIN SMALL LETTER R}un.succeeded",
            "r\u200bun.ok",
        ),
    ],
)
def test_an_event_in_the_name_of_the_engine_is_a_bug_of_the_body(
    make_engine: MakeEngine, acts: Acts, kind: str
) -> None:
    acts.play("a", lambda ctx: ctx.emit(kind, by="me"))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "are the engine's own; name yours after your application" in str(run.error)
    assert [event for event in handle.history() if event.data.get("by") == "me"] == []


@pytest.mark.parametrize("field", ["actor", "origin", "stage", "audit"])
def test_a_field_that_the_engine_fills_in_is_not_the_bodys(make_engine: MakeEngine, acts: Acts, field: str) -> None:
    acts.play("a", lambda ctx: ctx.emit("shop.booked", **{field: "the boss"}))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert f"the field '{field}' is filled in by the engine" in str(handle.describe().error)


def test_an_event_that_a_body_put_among_those_to_be_written_is_marked_as_its_own(
    make_engine: MakeEngine, acts: Acts
) -> None:
    forged = ("operator.cancel", {"actor": "the boss", "audit": {"run": {"status": "cancelled"}}, "origin": "person"})
    acts.play("a", lambda ctx: ctx.services.events.append(forged))
    engine = make_engine(acts.line("a"))
    handle = engine.enqueue("line", {})
    engine.drain()
    [event] = [event for event in handle.history() if event.type == "operator.cancel"]
    assert event.data["origin"] == "body"
    assert [checked.problems for checked in engine.audit()] == [()]


def test_progress_is_shown_while_the_stage_runs_and_gone_when_it_is_over(make_engine: MakeEngine, acts: Acts) -> None:
    engine, seen = make_engine(acts.line("a")), []

    def works(ctx: Any) -> None:
        ctx.heartbeat({"done": 3, "of": 10})
        seen.append(engine.run(ctx.run_id).stage("a").progress)

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert seen == [{"done": 3, "of": 10}]
    assert handle.describe().stage("a").progress is None


def test_result_inside_a_stage_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a", a={"compensate": None}))
    acts.play("a", lambda ctx: engine.handle(ctx.run_id).result())
    handle = engine.enqueue("line", {})
    engine.drain()
    assert "worker's slot" in str(handle.describe().error)


def test_given_a_worker_that_is_told_to_stop_while_a_stage_runs_then_it_begins_nothing_more(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(acts.line("a b c"), in_place_stages=50)
    (worker,) = engine.crew
    acts.play("a", lambda _ctx: setattr(worker, "stopping", True))
    engine.enqueue("line", {})
    engine.step(worker)
    assert acts.log == ["a"]
    assert len(engine.messages) == 1
    worker.stopping = False
    engine.drain()
    assert acts.log == ["a", "b", "c"]
