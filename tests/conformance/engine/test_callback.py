"""Waiting for the outside: a stage whose body has started something there ends by a call to its URL."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import text

from stageflow_durable import Pipeline, RetryPolicy, RunHandle, RunStatus, StageContext, StageOutput
from stageflow_durable.engine.callbacks import PATH
from stageflow_durable.errors import CallbackRefused, InvalidInput, RunParked
from stageflow_durable.model.run import CallbackReceipt, Run
from stageflow_durable.model.status import AttemptState, Cause, ParkReason, StageState, StepState, WaitingFor
from stageflow_durable.model.work import Nudge
from stageflow_durable.testing import InProcessEngine
from stageflow_durable.testing.faults import When
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import database_of, set_strand

HOUR = timedelta(hours=1)
ONCE = RetryPolicy(max_attempts=1)
TWICE = RetryPolicy(max_attempts=2, base_delay=5.0, max_delay=5.0, jitter="none")


class Outside:
    """What the body of ``b`` starts: it notes the URLs that it is handed."""

    def __init__(self) -> None:
        self.urls: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def start(self, ctx: StageContext[Any]) -> StageOutput:
        """The body, as a script's answer."""
        self.urls.append(ctx.callback_url())
        self.meanwhile()
        return StageOutput.wait(timeout=HOUR)


@pytest.fixture
def outside() -> Outside:
    return Outside()


def line(acts: Acts, outside: Outside, times: int = 3, **options: Any) -> Pipeline[Any, Any]:
    """Three stages with undos, the one in the middle waits."""
    acts.play("b", *[outside.start] * times)
    return acts.line("a b c", b={"retry": ONCE, **options})


@pytest.fixture(name="engine")
def _engine(make_engine: MakeEngine, acts: Acts, outside: Outside) -> InProcessEngine:
    return make_engine(line(acts, outside))


def waiting(engine: InProcessEngine, name: str = "line", **options: Any) -> RunHandle:
    """A run that has come to its wait."""
    handle = engine.enqueue(name, {}, **options)
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.CALLBACK
    return handle


def call(engine: InProcessEngine, url: str, payload: Any = None) -> CallbackReceipt:
    """What a server of callbacks does."""
    return engine.receive_callback(url.rsplit("/", 1)[1], json.dumps(payload).encode())


def refused(engine: InProcessEngine, url: str, payload: Any = None) -> str:
    with pytest.raises(CallbackRefused) as caught:
        call(engine, url, payload)
    return str(caught.value.reason)


def happened(handle: RunHandle, kind: str) -> list[dict[str, Any]]:
    """The data of its events of one kind."""
    return [dict(event.data) for event in handle.history() if event.type == kind]


def undo_of(run: Run, stage: str) -> Any:
    found = run.stage(stage).undo
    assert found is not None
    return found


# --- while it waits ---------------------------------------------------------------------------------------------------


def test_while_it_waits_there_is_a_row_and_nothing_else(engine: InProcessEngine, outside: Outside) -> None:
    handle = waiting(engine)
    published = engine.messages.published
    for _ in range(3):
        engine.advance(600)
        engine.sweep()
    assert (len(engine.messages), engine.messages.published) == (0, published)
    run = handle.describe()
    stage = run.stage("b")
    assert (run.status, stage.state, stage.waiting_for) == (RunStatus.WAITING, StageState.WAITING, "callback")
    assert [(one.n, one.state, one.delay) for one in stage.attempts] == [(1, AttemptState.WAITING, 3600.0)]
    assert stage.wake_at is not None
    assert outside.urls == [f"https://engine.test/{PATH}/" + outside.urls[0].rsplit("/", 1)[1]]


def test_what_is_sent_is_the_output_and_the_run_goes_on(engine: InProcessEngine, acts: Acts, outside: Outside) -> None:
    handle = waiting(engine)
    receipt = call(engine, outside.urls[0], {"url": "s3://video", "frames": [1, 2]})
    assert (receipt.run_id, receipt.stage, receipt.replayed) == (handle.run_id, "b", False)
    engine.drain()
    assert handle.outputs() == {"a": "a", "b": {"url": "s3://video", "frames": [1, 2]}, "c": "c"}
    assert acts.log == ["a", "b", "c"]
    stage = handle.describe().stage("b")
    assert (stage.state, stage.tries, [one.state for one in stage.attempts]) == (StageState.OK, 1, ["ok"])
    assert happened(handle, "stage.called_back") == [{"stage": "b", "kept": False}]


@pytest.mark.parametrize(("body", "output"), [(b"", None), (b"  \n", None), (b"null", None), (b"0", 0), (b'""', "")])
def test_what_is_falsy_is_sent_too(engine: InProcessEngine, outside: Outside, body: bytes, output: object) -> None:
    handle = waiting(engine)
    engine.receive_callback(outside.urls[0].rsplit("/", 1)[1], body)
    engine.drain()
    assert handle.outputs()["b"] == output
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_message_from_before_begins_nothing(engine: InProcessEngine, acts: Acts) -> None:
    engine.messages.copies = lambda _nudge: 3
    handle = engine.enqueue("line", {})
    engine.work()
    engine.advance(3601)  # due, and not swept yet
    engine.messages.publish((Nudge(handle.run_id, "a", 0, "test", 99, 1),))
    engine.work()
    assert acts.log == ["a", "b"]


# --- early, doubled, late, forged -------------------------------------------------------------------------------------


def test_a_call_that_comes_while_the_body_runs_is_kept(engine: InProcessEngine, acts: Acts, outside: Outside) -> None:
    outside.meanwhile = lambda: call(engine, outside.urls[-1], "early")
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["b"] == "early"
    assert acts.log == ["a", "b", "c"]
    assert happened(handle, "stage.called_back") == [{"stage": "b", "kept": True}]


def test_a_call_that_comes_between_two_attempts_is_kept_for_the_next(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    def raises(ctx: StageContext[Any]) -> None:
        outside.start(ctx)
        raise ConnectionError("after it was started")

    acts.play("b", raises, outside.start)
    engine = make_engine(acts.line("a b c", b={"retry": TWICE}))
    handle = engine.enqueue("line", {})
    engine.work()
    call(engine, outside.urls[0], "between")
    engine.drain()
    assert len(set(outside.urls)) == 1
    assert len(outside.urls) == 2
    assert handle.outputs()["b"] == "between"


def test_a_call_for_a_stage_that_then_does_not_wait_changes_nothing(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    def answers(ctx: StageContext[Any]) -> str:
        call(engine, ctx.callback_url(), "called")
        return "returned"

    acts.play("b", answers)
    engine = make_engine(acts.line("a b c"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["b"] == "returned"


def test_the_same_again_is_answered_as_before(engine: InProcessEngine, acts: Acts, outside: Outside) -> None:
    handle = waiting(engine)
    first = call(engine, outside.urls[0], {"n": 1, "m": 2})
    second = call(engine, outside.urls[0], {"m": 2, "n": 1})
    engine.drain()
    third = call(engine, outside.urls[0], {"n": 1.0, "m": 2})
    assert [one.replayed for one in (first, second, third)] == [False, True, True]
    assert first.received_at == third.received_at
    assert (acts.log, len(happened(handle, "stage.called_back"))) == (["a", "b", "c"], 1)


def test_something_else_after_the_first_call_is_refused(engine: InProcessEngine, outside: Outside) -> None:
    handle = waiting(engine)
    call(engine, outside.urls[0], 1)
    assert refused(engine, outside.urls[0], 2) == "conflict"
    engine.drain()
    assert refused(engine, outside.urls[0], True) == "conflict"
    assert handle.outputs()["b"] == 1


def test_a_call_after_the_run_was_cancelled_is_late(engine: InProcessEngine, outside: Outside) -> None:
    handle = waiting(engine)
    engine.cancel(handle.run_id, reason="r", actor="me")
    assert refused(engine, outside.urls[0], 1) == "late"
    engine.drain()
    assert refused(engine, outside.urls[0], 1) == "late"


def test_a_call_after_the_run_was_deleted_is_late(engine: InProcessEngine, outside: Outside) -> None:
    waiting(engine)
    call(engine, outside.urls[0], 1)
    engine.drain()
    engine.advance(86_400 * 40)
    assert engine.prune(timedelta(days=30)) == 1
    assert refused(engine, outside.urls[0], 1) == "late"


def _other_run(token: str) -> str:
    return ("0" if token[0] != "0" else "1") + token[1:]


def _other_stage(token: str) -> str:
    run, _stage, signature = token.split(".")
    return f"{run}.YQ.{signature}"  # "a"


def _other_signature(token: str) -> str:
    return token[:-1] + ("0" if token[-1] != "0" else "1")


@pytest.mark.parametrize(
    "forge",
    [
        _other_run,
        _other_stage,
        _other_signature,
        lambda token: token[:-1],
        lambda token: token + "0",
        lambda token: token.upper(),
        lambda token: token.replace(".", "=.", 1),
        lambda token: token.replace(".", "..", 1),
        lambda token: token.replace("Yg", "Yh"),  # decodes alike
        lambda _token: "",
        lambda _token: "\x00",
        lambda _token: "x" * 10_000,
    ],
)
def test_a_forged_token_is_refused_before_the_database_is_asked(
    engine: InProcessEngine, outside: Outside, forge: Callable[[str], str]
) -> None:
    waiting(engine)
    for read in ("plan", "call_back"):
        engine.faults.at("before", read, error=AssertionError("the database was asked"))
    token = forge(outside.urls[0].rsplit("/", 1)[1])
    with pytest.raises(CallbackRefused) as caught:
        engine.receive_callback(token, b"1")
    assert (caught.value.reason, caught.value.run_id) == ("forged", "")


# --- what is sent -----------------------------------------------------------------------------------------------------


class Rendered(BaseModel):
    frames: int


SCHEMA = {"type": "object", "required": ["frames"], "properties": {"frames": {"type": "integer"}}}


@pytest.mark.parametrize("schema", [Rendered, SCHEMA])
def test_what_does_not_validate_is_refused_by_field_and_the_stage_waits_on(
    make_engine: MakeEngine, acts: Acts, outside: Outside, schema: Any
) -> None:
    engine = make_engine(line(acts, outside, callback=schema))
    handle = waiting(engine)
    with pytest.raises(InvalidInput, match="payload of b: .*frames"):
        call(engine, outside.urls[0], {"frames": "many"})
    assert handle.describe().waiting_for is WaitingFor.CALLBACK
    call(engine, outside.urls[0], {"frames": 3})
    engine.drain()
    assert handle.outputs()["b"] == {"frames": 3}
    seen = acts.contexts[-1].output("b", Rendered)
    assert seen == Rendered(frames=3)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8 at byte 1"),
        (b"NaN", "NaN is not JSON"),
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b"[" * 5000, "nested too deep|too deep"),
        (b'"' + b"x" * 2_000_000 + b'"', "max_payload_bytes"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_stage_waits_on(
    engine: InProcessEngine, outside: Outside, body: bytes, named: str
) -> None:
    handle = waiting(engine)
    with pytest.raises(InvalidInput, match=named):
        engine.receive_callback(outside.urls[0].rsplit("/", 1)[1], body)
    assert handle.describe().waiting_for is WaitingFor.CALLBACK


# --- a wait that nothing ends -----------------------------------------------------------------------------------------


def late(engine: InProcessEngine) -> None:
    engine.advance(HOUR.total_seconds() + 1)
    engine.sweep()


def test_an_expired_wait_is_unknown_and_undone_as_such(engine: InProcessEngine, acts: Acts, outside: Outside) -> None:
    handle = waiting(engine)
    late(engine)
    engine.drain()
    run = handle.describe()
    assert (run.status, run.cause) == (RunStatus.COMPENSATED, Cause.FAILED)
    assert run.error == "no callback came within 3600 seconds"
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]
    assert refused(engine, outside.urls[0], 1) == "late"


def test_an_expired_wait_is_tried_again_by_the_retry_policy(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    engine = make_engine(line(acts, outside, retry=TWICE))
    handle = waiting(engine)
    late(engine)
    run = handle.describe()
    assert (run.waiting_for, [one.state for one in run.stage("b").attempts]) == (WaitingFor.TIME, ["retry"])
    engine.advance(6)
    engine.sweep()
    engine.work()
    assert outside.urls == outside.urls[:1] * 2
    call(engine, outside.urls[0], "second")
    engine.drain()
    assert handle.outputs()["b"] == "second"
    assert acts.log == ["a", "b", "b", "c"]


def test_a_call_between_an_expired_wait_and_the_next_attempt_is_kept(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    engine = make_engine(line(acts, outside, retry=TWICE))
    handle = waiting(engine)
    late(engine)
    call(engine, outside.urls[0], "between")
    engine.drain()
    assert handle.outputs()["b"] == "between"
    assert acts.log == ["a", "b", "b", "c"]


def test_expired_waits_are_tried_as_often_as_the_policy_says(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    engine = make_engine(line(acts, outside, retry=TWICE))
    handle = waiting(engine)
    for _ in range(2):
        late(engine)
        engine.advance(6)
        engine.sweep()
        engine.work()
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "b", "b", "undo b unknown", "undo a ok"]
    assert [one["attempt"] for one in happened(handle, "work.retry_exhausted")] == [2]


@pytest.mark.parametrize(
    ("options", "ends"),
    [
        ({"on_unknown": "park", "retry": TWICE}, (RunStatus.PARKED, ParkReason.UNKNOWN)),
        ({"on_unknown": "compensate", "retry": TWICE}, (RunStatus.COMPENSATED, None)),
        ({"pivot": True, "compensate": None}, (RunStatus.PARKED, ParkReason.UNKNOWN)),
    ],
)
def test_what_must_not_be_tried_again_is_not(
    make_engine: MakeEngine, acts: Acts, outside: Outside, options: dict[str, Any], ends: tuple[Any, Any]
) -> None:
    engine = make_engine(line(acts, outside, **options))
    handle = waiting(engine)
    late(engine)
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == ends
    assert acts.log.count("b") == 1


def test_a_person_says_what_became_of_an_expired_wait(make_engine: MakeEngine, acts: Acts, outside: Outside) -> None:
    engine = make_engine(line(acts, outside, on_unknown="park"))
    handle = waiting(engine)
    late(engine)
    engine.settle(handle.run_id, "b", done={"found": True}, reason="looked", actor="me")
    engine.drain()
    assert handle.outputs()["b"] == {"found": True}
    assert refused(engine, outside.urls[0], 1) == "late"


def test_a_cancelled_wait_is_unknown_and_undone_as_such(engine: InProcessEngine, acts: Acts) -> None:
    handle = waiting(engine)
    engine.cancel(handle.run_id, reason="r", actor="me")
    engine.drain()
    run = handle.describe()
    assert (run.status, undo_of(run, "b").state) == (RunStatus.COMPENSATED, StepState.COMPENSATED)
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]


def test_a_deadline_ends_a_wait_as_a_cancel_does(engine: InProcessEngine, acts: Acts) -> None:
    handle = waiting(engine, deadline=60)
    engine.advance(61)
    engine.drain()
    run = handle.describe()
    assert (run.status, run.cause) == (RunStatus.COMPENSATED, Cause.DEADLINE)
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]


def test_the_undo_of_a_stage_that_was_called_back_has_its_output(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    acts.play("c", FAILS("no"))
    engine = make_engine(line(acts, outside))
    handle = waiting(engine)
    call(engine, outside.urls[0], {"job": 7})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "b", "c", "undo c unknown", "undo b ok", "undo a ok"]
    assert acts.contexts[-2].output == {"job": 7}


# --- a run that was stopped while it waited ---------------------------------------------------------------------------


def branches(acts: Acts, outside: Outside, **options: Any) -> Pipeline[Any, Any]:
    """``b`` waits beside ``x``."""
    acts.play("b", outside.start)
    pipeline = Pipeline[Any, Any]("line", on_failure="park").stage("a", acts.stage)
    pipeline = pipeline.stage("b", acts.stage, after="a", compensate=acts.undo, retry=ONCE, **options)
    return pipeline.stage("x", acts.stage, after="a", retry=ONCE).stage("z", acts.stage, after=("b", "x"))


@pytest.mark.parametrize("on_unknown", ["retry", "park", "compensate"])
def test_a_run_that_was_parked_while_it_waited_waits_on_once_it_is_resumed(
    make_engine: MakeEngine, acts: Acts, outside: Outside, on_unknown: str
) -> None:
    acts.play("x", FAILS("no"))
    engine = make_engine(branches(acts, outside, on_unknown=on_unknown))
    handle = engine.enqueue("line", {})
    engine.work()
    with pytest.raises(RunParked):
        handle.result(0)
    assert handle.describe().stage("b").state is StageState.UNKNOWN
    engine.resume(handle.run_id, reason="r", actor="me")
    engine.work()
    assert handle.describe().stage("b").waiting_for is WaitingFor.CALLBACK
    call(engine, outside.urls[0], 1)
    engine.drain()
    assert (handle.status(), acts.log.count("b")) == (RunStatus.SUCCEEDED, 1)


def test_a_call_to_a_parked_run_is_kept_until_it_is_resumed(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    acts.play("x", FAILS("no"))
    engine = make_engine(branches(acts, outside))
    handle = engine.enqueue("line", {})
    engine.work()
    call(engine, outside.urls[0], 1)
    assert handle.status() is RunStatus.PARKED
    engine.resume(handle.run_id, reason="r", actor="me")
    engine.drain()
    assert (handle.status(), acts.log.count("b")) == (RunStatus.SUCCEEDED, 1)
    assert handle.outputs()["b"] == 1


def test_a_wait_that_was_resumed_and_expires_is_not_tried_again(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    acts.play("x", FAILS("no"))
    engine = make_engine(branches(acts, outside))
    handle = engine.enqueue("line", {})
    engine.work()
    engine.resume(handle.run_id, reason="r", actor="me")
    engine.work()
    late(engine)
    engine.drain()
    run = handle.describe()
    assert (run.status, run.error) == (RunStatus.PARKED, "no callback came within 3600 seconds")
    assert acts.log.count("b") == 1


def test_a_body_that_returns_its_wait_while_its_run_stops_is_unknown(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    engine = make_engine(line(acts, outside))
    outside.meanwhile = lambda: engine.cancel(handle.run_id, reason="r", actor="me")
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "b", "undo b unknown", "undo a ok"]


def test_a_call_while_the_body_runs_in_a_run_that_stops_makes_its_outcome_known(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    def both() -> None:
        engine.cancel(handle.run_id, reason="r", actor="me")
        call(engine, outside.urls[0], 1)

    engine = make_engine(line(acts, outside))
    outside.meanwhile = both
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "b", "undo b ok", "undo a ok"]


# --- processes that die -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", ["await_callback", "call_back", "publish"])
def test_a_process_that_dies_around_a_step_loses_nothing(
    make_engine: MakeEngine, acts: Acts, outside: Outside, step: str, when: When
) -> None:
    engine = make_engine(line(acts, outside))
    engine.watched = True
    if step == "await_callback":
        engine.faults.at(when, step)
    handle = engine.enqueue("line", {})
    for _ in range(2):
        engine.work()
        engine.sweep()
    if step != "await_callback":
        engine.faults.at(when, step)
    for _ in range(2):
        with suppress(DIES):  # the process that serves the call
            call(engine, outside.urls[0], "done")
    engine.drain()
    assert handle.outputs() == {"a": "a", "b": "done", "c": "c"}
    assert len(set(outside.urls)) == 1


def test_a_body_that_dies_after_it_gave_its_url_away_runs_again_with_the_same(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    def dies(ctx: StageContext[Any]) -> None:
        outside.start(ctx)
        raise DIES

    acts.play("b", dies, outside.start)
    engine = make_engine(acts.line("a b c"))
    engine.watched = True
    handle = engine.enqueue("line", {})
    engine.work()
    engine.sweep()
    engine.work()
    call(engine, outside.urls[0], 1)
    engine.drain()
    assert (len(outside.urls), len(set(outside.urls)), handle.status()) == (2, 1, RunStatus.SUCCEEDED)


# --- mistakes ---------------------------------------------------------------------------------------------------------


def parked_by(engine: InProcessEngine) -> str:
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    return str(run.error)


def test_a_wait_without_a_url_is_a_bug(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", StageOutput.wait(timeout=5))
    assert "without ctx.callback_url()" in parked_by(make_engine(acts.line("a")))


def test_an_undo_that_waits_has_failed(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("b", FAILS("no"))
    acts.play("undo a", StageOutput.wait(timeout=5))
    engine = make_engine(acts.line("a b"))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert run.status is RunStatus.COMPENSATION_FAILED
    assert "an undo can neither wait" in str(undo_of(run, "a").error)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [("1h", TypeError), (None, TypeError), (True, TypeError), (0, ValueError), (-1, ValueError), (1e12, ValueError)],
)
def test_a_timeout_that_is_none_is_refused(timeout: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="StageOutput.wait"):
        StageOutput.wait(timeout=timeout)


def wrote(engine: InProcessEngine) -> list[str]:
    with database_of(engine).read() as connection:
        return list(connection.execute(text("SELECT name FROM own ORDER BY name")).scalars())


@pytest.mark.sql
def test_what_a_body_wrote_through_its_session_commits_with_its_wait(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    def writes(ctx: StageContext[Any]) -> StageOutput:
        ctx.session.execute(text("INSERT INTO own (name) VALUES ('job')"))
        return outside.start(ctx)

    acts.play("b", writes)
    engine = make_engine(acts.line("a b c"))
    with database_of(engine).transaction() as connection:
        connection.execute(text("CREATE TABLE own (name TEXT)"))
    try:
        handle = waiting(engine)
        assert wrote(engine) == ["job"]
        call(engine, outside.urls[0], 1)
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
    finally:
        with database_of(engine).transaction() as connection:
            connection.execute(text("DROP TABLE own"))


# --- keys and sessions ------------------------------------------------------------------------------------------------


def test_a_business_key_is_held_while_the_stage_waits_and_has_the_result_then(
    make_engine: MakeEngine, acts: Acts, outside: Outside
) -> None:
    engine = make_engine(line(acts, outside, key=lambda ctx: "the-key"))
    first = waiting(engine)
    second = engine.enqueue("line", {})
    engine.work()
    assert second.describe().waiting_for is WaitingFor.LIMIT
    call(engine, outside.urls[0], "once")
    engine.drain()
    assert [one.outputs()["b"] for one in (first, second)] == ["once", "once"]
    assert acts.log.count("b") == 1


def test_a_wait_for_the_outside_that_lost_its_time_ends_and_its_body_is_not_called_again(
    engine: InProcessEngine, outside: Outside
) -> None:
    handle = waiting(engine)
    watch, engine.faults.watch = engine.faults.watch, lambda _point: None  # until it is repaired the invariants fail
    set_strand(engine, handle.run_id, "a", wake_at=None)
    engine.advance(31)
    assert engine.sweep().repaired == 1
    engine.faults.watch = watch
    engine.drain()
    assert len(outside.urls) == 1
    assert handle.status() is not RunStatus.SUCCEEDED


@pytest.mark.parametrize(("token", "body"), [(7, b"1"), (None, b"1"), ("here", "text"), ("here", None)])
def test_what_is_no_text_or_no_bytes_is_refused_by_name(engine: InProcessEngine, token: Any, body: Any) -> None:
    with pytest.raises(InvalidInput, match="the token is text, the body bytes"):
        engine.receive_callback(token, body)
