"""Waiting for a signal: a row until it comes, whatever happens to workers, messages and the run meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel, Field

from stageflow_durable import Default, Pipeline, RunStatus
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.errors import (
    DefinitionError,
    IdempotencyParamMismatch,
    InvalidInput,
    InvalidKey,
    NotAllowed,
    UnknownRun,
    UnsavableValue,
)
from stageflow_durable.model.status import Cause, ParkReason, StageState, WaitingFor
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import rows_of

WEEK = timedelta(days=7)
LONG = timedelta(days=30)


class Decision(BaseModel):
    """What is waited for."""

    approved: bool
    amount: int = Field(default=0, ge=0)


def around(acts: Acts, *, schema: Any = None, name: str = "line", **options: Any) -> Pipeline[Any, Any]:
    """A wait between two stages that have undos."""
    line = acts.line("a", name=name).wait_for("word", schema, **options)
    return line.stage("b", acts.stage, compensate=acts.undo)


@pytest.fixture(name="engine")
def _engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """An engine with that pipeline, whose wait lasts a week."""
    return make_engine(around(acts, timeout=WEEK))


def waiting(engine: InProcessEngine, name: str = "line", **options: Any) -> RunHandle:
    """A run that has come to its wait."""
    handle = engine.enqueue(name, {}, **options)
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.SIGNAL
    return handle


def happened(handle: RunHandle, kind: str) -> list[dict[str, Any]]:
    """The data of its events of one kind."""
    return [dict(event.data) for event in handle.history() if event.type == kind]


# --- while it waits ---------------------------------------------------------------------------------------------------


def test_while_it_waits_there_is_a_row_and_nothing_else(engine: InProcessEngine) -> None:
    handle = waiting(engine)
    published = engine.messages.published
    for _day in range(3):
        engine.advance(86_400)
        engine.sweep()
    assert (len(engine.messages), engine.messages.published) == (0, published)
    run = handle.describe()
    stage = run.stage("word")
    assert (run.status, stage.state, stage.kind, stage.attempts) == (
        RunStatus.WAITING,
        StageState.WAITING,
        "wait",
        (),
    )
    held = [(row["owner"], row["state"], row["waiting_for"]) for row in rows_of(engine, "strands")]
    assert held == [(None, "waiting", "signal")]
    assert len(rows_of(engine, "attempts")) == 1


def test_a_signal_ends_it_its_payload_is_the_output_and_the_sender_is_in_the_history(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = waiting(engine)
    took = engine.signal(handle.run_id, "word", {"n": 1}, idempotency_key="k", actor="ann", reason="she said so")
    assert (took.run_id, took.name, took.number, took.replayed) == (handle.run_id, "word", 1, False)
    assert took.received_at.timestamp() == pytest.approx(engine.clock.time(), abs=1)
    assert len(engine.messages) == 1, "the next stage is published in the same transaction"
    engine.drain()
    assert (acts.log, handle.outputs()["word"]) == (["a", "b"], {"n": 1})
    (received,) = happened(handle, "signal.received")
    assert received == {
        "stage": "word",
        "signal": 1,
        "actor": "ann",
        "reason": "she said so",
        "key": "k",
        "kept": False,
    }
    assert {"stage": "word", "attempt": 0, "signal": 1, "actor": "ann"}.items() <= happened(handle, "stage.ok")[
        1
    ].items()
    assert all(checked.problems == () for checked in engine.audit())


def test_a_signal_is_sent_by_whoever_awaits_too(engine: InProcessEngine) -> None:
    import asyncio

    handle = waiting(engine)
    took = asyncio.run(engine.asignal(handle.run_id, "word", 7))
    engine.drain()
    assert (took.number, handle.outputs()["word"]) == (1, 7)


def test_one_without_a_time_waits_for_ever_and_nobody_calls_it_stuck(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(around(acts))
    handle = waiting(engine)
    assert handle.describe().stage("word").wake_at is None
    engine.advance(86_400 * 365)
    engine.sweep()
    assert engine.runs(attention=True) == []
    engine.signal(handle.run_id, "word")
    engine.drain()
    assert (acts.log, handle.outputs()["word"]) == (["a", "b"], None)


def test_workers_that_die_and_messages_that_are_lost_change_nothing(engine: InProcessEngine, acts: Acts) -> None:
    handle = waiting(engine)
    engine.crew = [engine.hired()]
    engine.signal(handle.run_id, "word", 1)
    engine.messages.lose_all()
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


@pytest.mark.parametrize("where", ["first", "last", "alone", "branch", "join"])
def test_it_may_stand_anywhere(make_engine: MakeEngine, acts: Acts, where: str) -> None:
    start: Pipeline[Any, Any] = Pipeline("line")
    made = {
        "first": lambda: start.wait_for("word").stage("a", acts.stage),
        "last": lambda: start.stage("a", acts.stage).wait_for("word"),
        "alone": lambda: start.wait_for("word"),
        "branch": lambda: (
            start.stage("a", acts.stage)
            .wait_for("word", after="a")
            .stage("b", acts.stage, after="a")
            .stage("z", acts.stage, after=("word", "b"))
        ),
        "join": lambda: (
            start.stage("a", acts.stage, after=())
            .stage("b", acts.stage, after=())
            .wait_for("word", after=("a", "b"))
            .stage("z", acts.stage, after="word")
        ),
    }[where]()
    engine = make_engine(made)
    handle = waiting(engine)
    assert handle.status() is RunStatus.WAITING
    engine.signal(handle.run_id, "word", "yes")
    engine.drain()
    assert (handle.status(), handle.outputs()["word"]) == (RunStatus.SUCCEEDED, "yes")
    assert len(acts.log) == len(set(acts.log)) == len(made.stages) - 1


def test_two_waits_in_a_row_take_their_signals_in_any_order(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a").wait_for("one").wait_for("two").stage("b", acts.stage))
    handle = waiting(engine)
    engine.signal(handle.run_id, "two", 2)
    assert handle.status() is RunStatus.WAITING
    engine.signal(handle.run_id, "one", 1)
    engine.drain()
    assert handle.result() == {"a": "a", "one": 1, "two": 2, "b": "b"}


# --- early, late, doubled, wrong --------------------------------------------------------------------------------------


def test_one_that_comes_before_the_run_is_there_is_kept_until_it_is(engine: InProcessEngine, acts: Acts) -> None:
    handle = engine.enqueue("line", {})
    engine.signal(handle.run_id, "word", "early", actor="ann")
    assert happened(handle, "signal.received")[0]["kept"] is True
    engine.drain()
    assert (acts.log, handle.outputs()["word"]) == (["a", "b"], "early")
    assert happened(handle, "stage.waiting") == []


def test_one_that_comes_before_the_first_message_of_a_run_that_begins_with_its_wait_ends_that(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(Pipeline[Any, Any]("line").wait_for("word").stage("b", acts.stage))
    handle = engine.enqueue("line", {})
    engine.signal(handle.run_id, "word", "early")
    engine.work()
    assert (acts.log, handle.status()) == (["b"], RunStatus.SUCCEEDED)


def test_one_that_comes_while_the_run_is_parked_is_kept_and_a_resume_takes_it(
    make_engine: MakeEngine, acts: Acts
) -> None:
    graph = Pipeline[Any, Any]("line", on_failure="park").wait_for("word", after=())
    engine = make_engine(graph.stage("a", acts.stage, after=()).stage("z", acts.stage, after=("word", "a")))
    acts.play("a", FAILS("no"))
    handle = engine.enqueue("line", {})
    engine.work()
    assert handle.status() is RunStatus.PARKED
    engine.signal(handle.run_id, "word", "meanwhile")
    assert handle.status() is RunStatus.PARKED
    engine.resume(handle.run_id, reason="go on", actor="ann")
    engine.drain()
    assert (handle.status(), handle.outputs()["word"]) == (RunStatus.SUCCEEDED, "meanwhile")


def test_the_same_key_is_the_same_signal_also_when_the_wait_and_the_run_are_over(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    first = engine.signal(handle.run_id, "word", {"n": 1}, idempotency_key="k", actor="ann")
    engine.advance(5)
    answers = [engine.signal(handle.run_id, "word", {"n": 1}, idempotency_key="k", actor="bob")]
    engine.drain()
    answers.append(engine.signal(handle.run_id, "word", {"n": 1.0}, idempotency_key="k", actor="bob"))
    assert handle.status() is RunStatus.SUCCEEDED
    for again in answers:
        assert again.replayed
        assert (again.number, again.received_at) == (first.number, first.received_at)
    assert [row["actor"] for row in rows_of(engine, "signals")] == ["ann"]
    with pytest.raises(IdempotencyParamMismatch, match="payload"):
        engine.signal(handle.run_id, "word", {"n": 2}, idempotency_key="k")


@pytest.mark.parametrize("kept", [True, False])
def test_a_wait_takes_one_signal_and_a_second_one_is_refused_by_name(engine: InProcessEngine, kept: bool) -> None:
    handle = engine.enqueue("line", {}) if kept else waiting(engine)
    engine.signal(handle.run_id, "word", 1, actor="ann")
    for key in (None, "another"):
        with pytest.raises(NotAllowed, match="its wait 'word' has its signal already, from ann"):
            engine.signal(handle.run_id, "word", 2, idempotency_key=key)
    engine.drain()
    assert handle.outputs()["word"] == 1


def test_one_that_no_stage_waits_for_is_refused_by_name(engine: InProcessEngine) -> None:
    handle = waiting(engine)
    for name in ("a", "nothing"):
        with pytest.raises(NotAllowed, match=r"it has no wait .*; it waits for: word"):
            engine.signal(handle.run_id, name)
    with pytest.raises(UnknownRun):
        engine.signal("0" * 26, "word")
    for wrong in ("", "wor\x00d", 7):
        with pytest.raises(InvalidKey, match="name"):
            engine.signal(handle.run_id, wrong)  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(InvalidKey):
        engine.signal(handle.run_id, "word", idempotency_key="")
    with pytest.raises(InvalidInput, match="actor"):
        engine.signal(handle.run_id, "word", actor=" ")


def test_one_that_comes_too_late_is_refused_by_what_became_of_the_wait(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(around(acts, timeout=60, on_timeout="skip"))
    handle = waiting(engine)
    engine.drain()
    with pytest.raises(NotAllowed, match="its wait 'word' is over: skipped"):
        engine.signal(handle.run_id, "word", 1)


@pytest.mark.parametrize("end", ["cancelled", "compensating", "compensated", "stopping"])
def test_one_for_a_run_that_turns_back_or_has_ended_is_refused_by_its_status(
    make_engine: MakeEngine, acts: Acts, end: str
) -> None:
    graph = Pipeline[Any, Any]("line").wait_for("word", after=())
    undo = None if end == "cancelled" else acts.undo
    engine = make_engine(graph.stage("a", acts.stage, after=(), compensate=undo))
    if end == "stopping":
        acts.play("a", lambda ctx: _cancel_inside(engine, ctx.run_id))
    handle = engine.enqueue("line", {})
    if end != "stopping":
        engine.work()
        engine.cancel(handle.run_id, reason="no", actor="ann")
        if end == "compensated":
            engine.drain()
        assert handle.status() == end
        with pytest.raises(NotAllowed, match=f"it is {end}"):
            engine.signal(handle.run_id, "word", 1)
    else:
        engine.work()
        assert acts.contexts


def _cancel_inside(engine: InProcessEngine, run_id: str) -> str:
    engine.cancel(run_id, reason="no", actor="ann")
    with pytest.raises(NotAllowed, match="it is stopping"):
        engine.signal(run_id, "word", 1)
    return "done"


# --- payloads ---------------------------------------------------------------------------------------------------------


def test_a_payload_is_validated_by_the_model_and_read_as_it(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", lambda ctx: ctx.output("word", Decision).amount)
    engine = make_engine(around(acts, schema=Decision))
    handle = waiting(engine)
    for wrong, field in (
        ({}, "approved: Field required"),
        ({"approved": "perhaps"}, "approved"),
        ({"approved": True, "amount": -1}, "amount: Input should be greater than or equal to 0"),
        (None, "value"),
    ):
        with pytest.raises(InvalidInput, match=field):
            engine.signal(handle.run_id, "word", wrong)
    engine.signal(handle.run_id, "word", Decision(approved=True, amount=7))
    engine.drain()
    assert handle.outputs()["b"] == 7


@pytest.mark.parametrize("known", ["model", "schema"])
def test_whoever_knows_the_database_alone_validates_by_the_schema_that_is_stored(
    make_engine: MakeEngine, acts: Acts, known: str
) -> None:
    schema = Decision if known == "model" else Decision.model_json_schema()
    engine = make_engine(around(acts, schema=schema))
    handle = waiting(engine)
    engine.pipelines = {}
    for wrong, field in (
        ({}, "approved: it is missing"),
        ({"approved": 1}, "approved: boolean is needed"),
        ({"approved": True, "amount": -1}, "amount: it has to be at least 0"),
        ([], "value: object is needed"),
    ):
        with pytest.raises(InvalidInput, match=field):
            engine.signal(handle.run_id, "word", wrong)
    engine.signal(handle.run_id, "word", {"approved": True})
    engine.drain()
    assert handle.outputs()["word"] == {"approved": True}


def test_a_payload_is_bounded_as_every_input(engine: InProcessEngine) -> None:
    handle = waiting(engine)
    deep: Any = 1
    for _level in range(200):
        deep = [deep]
    with pytest.raises(UnsavableValue):
        engine.signal(handle.run_id, "word", deep)
    with pytest.raises(UnsavableValue, match=r"payload\.n"):
        engine.signal(handle.run_id, "word", {"n": object()})
    with pytest.raises(InvalidInput, match="max_payload_bytes"):
        engine.signal(handle.run_id, "word", {"text": "x" * 2_000_000})
    assert handle.status() is RunStatus.WAITING


# --- the end of its time ----------------------------------------------------------------------------------------------


def test_when_its_time_is_over_the_stage_has_failed_and_what_was_done_is_undone(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = waiting(engine)
    engine.advance(WEEK.total_seconds() - 10)
    engine.sweep()
    assert handle.status() is RunStatus.WAITING
    engine.drain(LONG)
    run = handle.describe()
    assert (acts.log, run.status, run.cause) == (["a", "undo a ok"], RunStatus.COMPENSATED, Cause.FAILED)
    assert (run.error_stage, run.error) == ("word", "no signal 'word' came within 604800 seconds")
    assert [stage.state for stage in run.stages] == [StageState.UNDONE, StageState.FAILED, StageState.CANCELLED]
    with pytest.raises(NotAllowed, match="it is compensated"):
        engine.signal(handle.run_id, "word", 1)


@pytest.mark.parametrize(
    ("on_timeout", "state", "output"),
    [("skip", StageState.SKIPPED, "nothing"), (Default({"by": "nobody"}), StageState.OK, {"by": "nobody"})],
)
def test_when_its_time_is_over_it_is_skipped_or_ends_with_a_value(
    make_engine: MakeEngine, acts: Acts, on_timeout: Any, state: StageState, output: Any
) -> None:
    engine = make_engine(around(acts, timeout=60, on_timeout=on_timeout))
    handle = waiting(engine)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)
    assert handle.describe().stage("word").state is state
    assert handle.outputs().get("word", "nothing") == output
    (event,) = happened(handle, "signal.timed_out")
    assert event["seconds"] == 60.0


def test_a_pipeline_that_parks_when_it_fails_is_parked_and_a_resume_waits_anew(
    make_engine: MakeEngine, acts: Acts
) -> None:
    line = acts.line("a", options={"on_failure": "park"}).wait_for("word", timeout=60).stage("b", acts.stage)
    engine = make_engine(line)
    handle = waiting(engine)
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason, run.stage("word").state) == (
        RunStatus.PARKED,
        ParkReason.OPERATOR,
        StageState.FAILED,
    )
    engine.advance(3600)
    engine.resume(handle.run_id, reason="ask again", actor="ann")
    again = handle.describe().stage("word")
    assert again.wake_at is not None
    assert again.wake_at.timestamp() == pytest.approx(engine.clock.time() + 60, abs=1)
    engine.signal(handle.run_id, "word", "at last")
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize("passed", [2, 9], ids=["within its time", "after it"])
def test_a_cancelled_run_that_is_resumed_waits_for_the_rest_of_its_time_or_anew(
    make_engine: MakeEngine, acts: Acts, passed: int
) -> None:
    engine = make_engine(
        Pipeline[Any, Any]("line").stage("a", acts.stage).wait_for("word", timeout=WEEK).stage("b", acts.stage)
    )
    handle = waiting(engine)
    due = handle.describe().stage("word").wake_at
    engine.cancel(handle.run_id, reason="wait", actor="ann")
    with pytest.raises(NotAllowed, match="it is cancelled.*resume it first"):
        engine.signal(handle.run_id, "word", 1)
    engine.advance(86_400 * passed)
    engine.resume(handle.run_id, reason="go on", actor="ann")
    anew = engine.clock.time() + WEEK.total_seconds()
    until = handle.describe().stage("word").wake_at
    assert due is not None
    assert until is not None
    assert until.timestamp() == pytest.approx(due.timestamp() if passed == 2 else anew, abs=1)
    engine.signal(handle.run_id, "word", 1)
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize("first", ["signal", "sweep"])
def test_of_a_signal_and_the_end_of_its_time_the_first_counts(engine: InProcessEngine, acts: Acts, first: str) -> None:
    handle = waiting(engine)
    engine.advance(WEEK.total_seconds() + 1)
    if first == "signal":
        engine.signal(handle.run_id, "word", 1)
        engine.sweep()
        engine.drain()
        assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)
        return
    engine.sweep()
    with pytest.raises(NotAllowed, match="it is compensating"):
        engine.signal(handle.run_id, "word", 1)
    engine.drain()
    assert acts.log == ["a", "undo a ok"]


@pytest.mark.parametrize("end", ["cancel", "compensate", "deadline"])
def test_a_run_that_is_stopped_while_it_waits_undoes_what_it_did(engine: InProcessEngine, acts: Acts, end: str) -> None:
    handle = engine.enqueue("line", {}, deadline=WEEK / 2)
    engine.work()
    if end == "cancel":
        engine.cancel(handle.run_id, reason="no more", actor="ann")
    elif end == "compensate":
        engine.compensate(handle.run_id, reason="no more", actor="ann")
    engine.drain(LONG)
    assert acts.log == ["a", "undo a ok"]
    run = handle.describe()
    assert (run.status, run.stage("word").state) == (RunStatus.COMPENSATED, StageState.CANCELLED)


def test_its_time_moves_along_with_a_clock_that_is_set_back(engine: InProcessEngine) -> None:
    handle = waiting(engine)
    due = handle.describe().stage("word").wake_at
    engine.advance(3600)
    assert engine.store.move_times(-1800.0, 60.0, 10.0)  # as if it had been
    moved = handle.describe().stage("word").wake_at
    assert due is not None
    assert moved is not None
    assert (due - moved).total_seconds() == pytest.approx(1800)


# --- forks, deploys, pruning ------------------------------------------------------------------------------------------


def test_a_fork_waits_anew_where_it_begins_at_the_wait_and_has_the_answer_where_it_begins_behind_it(
    engine: InProcessEngine,
) -> None:
    handle = waiting(engine)
    engine.signal(handle.run_id, "word", 1, idempotency_key="k")
    engine.drain()
    behind = engine.fork(handle.run_id, from_stage="b", reason="again", actor="ann")
    anew = engine.fork(handle.run_id, from_stage="word", reason="again", actor="ann")
    engine.work()
    assert (behind.outputs()["word"], anew.describe().waiting_for) == (1, WaitingFor.SIGNAL)
    engine.signal(anew.run_id, "word", 2, idempotency_key="k")
    engine.drain()
    assert anew.outputs()["word"] == 2


def test_a_signal_that_is_kept_stays_with_its_run_when_that_is_forked(engine: InProcessEngine) -> None:
    handle = engine.enqueue("line", {})
    engine.signal(handle.run_id, "word", 1)
    forked = engine.fork(handle.run_id, from_stage="a", reason="again", actor="ann")
    engine.work()
    assert (handle.status(), forked.describe().waiting_for) == (RunStatus.SUCCEEDED, WaitingFor.SIGNAL)


def test_what_waits_is_not_pruned_and_what_has_waited_is_with_its_signals(engine: InProcessEngine) -> None:
    handle = waiting(engine)
    engine.advance(86_400 * 2)
    assert engine.store.prune(3600.0, sleep=lambda _seconds: None).deleted == 0
    engine.signal(handle.run_id, "word", 1)
    engine.drain(LONG)
    engine.advance(86_400)
    assert engine.store.prune(3600.0, sleep=lambda _seconds: None).deleted == 1
    assert rows_of(engine, "signals") == []
    with pytest.raises(UnknownRun, match="was pruned"):
        engine.signal(handle.run_id, "word", 1)


def test_a_stage_that_is_added_behind_a_wait_is_reached_by_runs_that_wait(engine: InProcessEngine, acts: Acts) -> None:
    handle = waiting(engine)
    engine.deploy(acts.line("a").wait_for("word").stage("new", acts.stage).stage("b", acts.stage))
    assert list(engine.check()) == []
    engine.advance(1)  # its worker joins
    engine.signal(handle.run_id, "word", 1)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "new", "b"], RunStatus.SUCCEEDED)


def test_a_wait_that_is_a_stage_by_now_is_carried_out_when_its_run_has_moved_on(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def graph(word: Callable[[Pipeline[Any, Any]], Pipeline[Any, Any]]) -> Pipeline[Any, Any]:
        begun = word(Pipeline[Any, Any]("line").stage("a", acts.stage))
        return begun.wait_for("other", after="a").stage("z", acts.stage, after=("word", "other"))

    engine = make_engine(graph(lambda line: line.wait_for("word", after="a")))
    handle = waiting(engine)
    engine.deploy(graph(lambda line: line.stage("word", acts.stage, after="a")))
    engine.advance(1)  # its worker joins
    engine.signal(handle.run_id, "other", 1)
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "word", "z"], RunStatus.SUCCEEDED)


def test_a_stage_that_is_a_wait_by_now_waits_from_then_on(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a word b"))
    handle = engine.enqueue("line", {})
    engine.deploy(acts.line("a").wait_for("word").stage("b", acts.stage))
    engine.work()
    assert (acts.log, handle.describe().waiting_for) == (["a"], WaitingFor.SIGNAL)
    engine.signal(handle.run_id, "word", 1)
    engine.drain()
    assert acts.log == ["a", "b"]


# --- which run is meant -----------------------------------------------------------------------------------------------


def test_a_signal_finds_the_one_run_that_waits_for_it_or_will(engine: InProcessEngine, acts: Acts) -> None:
    engine.deploy(around(acts), around(acts, name="other"))
    first = waiting(engine, client_id="web", idempotency_key="order-1")
    second = engine.enqueue("line", {}, client_id="web", idempotency_key="order-2")
    third = waiting(engine, "other", client_id="shop", idempotency_key="order-1")
    with pytest.raises(NotAllowed, match="signal of signal word refused: more than one run fits"):
        engine.signal_where("word", 0)
    with pytest.raises(NotAllowed, match="more than one run fits"):
        engine.signal_where("word", 0, client_id="web")
    with pytest.raises(NotAllowed, match="no run waits for it .*correlation='order-3'"):
        engine.signal_where("word", 0, correlation="order-3")
    with pytest.raises(NotAllowed, match="no run waits for it"):
        engine.signal_where("b", 0, correlation="order-2")
    assert engine.signal_where("word", 2, correlation="order-2").run_id == second.run_id
    assert engine.signal_where("word", 1, client_id="web").run_id == first.run_id
    assert engine.signal_where("word", 3).run_id == third.run_id
    engine.drain()
    assert [run.outputs()["word"] for run in (first, second, third)] == [1, 2, 3]


def test_a_signal_that_is_sent_again_finds_the_run_that_it_came_to(engine: InProcessEngine) -> None:
    first = waiting(engine, idempotency_key="order-1")
    sent = engine.signal_where("word", 1, idempotency_key="k")
    waiting(engine, idempotency_key="order-2")
    again = engine.signal_where("word", 1, idempotency_key="k")
    assert (again.run_id, again.replayed, again.received_at) == (first.run_id, True, sent.received_at)
    with pytest.raises(IdempotencyParamMismatch):
        engine.signal_where("word", 2, idempotency_key="k")
    for nothing in ("", None):  # None as of a field that was not filled in: it would fit any run
        for what in ("correlation", "client_id", "pipeline"):
            given: Any = {what: nothing}
            with pytest.raises(InvalidKey, match=what):
                engine.signal_where("word", 2, **given)


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"timeout": 0}, "timeout .* has to be seconds or a timedelta"),
        ({"timeout": "3 days"}, "timeout .* has to be seconds or a timedelta"),
        ({"timeout": timedelta(days=4000)}, "at most ten years"),
        ({"timeout": 5, "on_timeout": "park"}, "on_timeout='park': 'fail', 'skip' or Default"),
        ({"timeout": 5, "on_timeout": Default}, "'fail', 'skip' or Default"),
        ({"on_timeout": "skip"}, "on_timeout= is given without timeout="),
        ({"timeout": 5, "on_timeout": Default(object())}, r"on_timeout=Default\(…\): value: object cannot be saved"),
        ({"timeout": 5, "on_timeout": Default(1), "schema": Decision}, "value: object is needed"),
        ({"schema": int}, "neither a Pydantic model nor a JSON schema"),
        ({"schema": "text"}, "neither a Pydantic model nor a JSON schema"),
        ({"schema": {"type": "text"}}, "schema: /type"),
        ({"schema": {"minimun": 1}}, "schema: /minimun: this keyword is not known here"),
    ],
)
def test_what_cannot_hold_is_refused_where_it_is_defined(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem) as refused:
        _ = Pipeline[Any, Any]("line").wait_for("word", **given).plan
    assert "stage 'word'" in str(refused.value)


def test_the_digest_of_a_definition_changes_with_what_it_waits_for_and_not_with_how_that_is_described() -> None:
    class Described(BaseModel):
        """The same, with words."""

        approved: bool = Field(description="whether it may go on", title="Approved")
        amount: int = Field(default=0, ge=0, examples=[7])

    start: Pipeline[Any, Any] = Pipeline("line")
    plans = [
        start.wait_for("word").plan,
        start.wait_for("word", timeout=5).plan,
        start.wait_for("word", timeout=5, on_timeout="skip").plan,
        start.wait_for("word", timeout=5, on_timeout=Default(1)).plan,
        start.wait_for("word", timeout=5, on_timeout=Default(2)).plan,
        start.wait_for("word", Decision).plan,
    ]
    assert len({plan.digest for plan in plans}) == len(plans)
    assert [type(plan).decode(plan.encoded) for plan in plans] == plans
    assert start.wait_for("word", Described).plan.digest == plans[-1].digest
    assert start.wait_for("word", Decision.model_json_schema()).plan.digest == plans[-1].digest
    assert len({hash(start.wait_for("word", {"type": "object"}, timeout=5, on_timeout=Default([])))}) == 1
