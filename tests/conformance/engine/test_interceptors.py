"""What wraps a stage decides its outcome; who observes is told of it, and changes nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from stageflow_durable import (
    AttemptEnd,
    BaseInterceptor,
    Interceptor,
    PermanentError,
    Pipeline,
    RetryPolicy,
    RunStatus,
    StageOutput,
    TransientError,
)
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.idempotency import IdempotencyInterceptor, MemoryIdempotencyStore
from stageflow_durable.interceptors import ErrorAction, InterceptorResult
from stageflow_durable.model.status import ParkReason, StepState
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIES, FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine

ONCE = RetryPolicy(max_attempts=1)
Around = Callable[[Any, Any], Any]


class Wrap(Interceptor):
    """An interceptor that is made of a function."""

    def __init__(self, around: Around, name: str = "wrap", priority: int = 100) -> None:
        self._around = around
        self.name = name
        self.priority = priority

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        output: StageOutput = self._around(ctx, call_next)
        return output


class WrapAsync(Wrap):
    """The same, within the loop: what the function asks further in is awaited before."""

    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        await asyncio.sleep(0)
        asked: list[Any] = []
        output: StageOutput = self._around(ctx, asked.append)
        return await call_next(asked[0]) if asked else output


def runs(engine: InProcessEngine, given: Any = None) -> Any:
    handle = engine.enqueue(next(iter(engine.pipelines)), given or {})
    engine.drain()
    return handle


# --- around -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waits", [True, False], ids=["joined", "left"])
def test_a_body_is_not_called_in_a_thread_of_an_interceptor(make_engine: MakeEngine, acts: Acts, waits: bool) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(call_next, ctx)
            return asked.result() if waits else StageOutput.ok("beside it")

    engine = make_engine(acts.line("a"), interceptors=[Wrap(around)])
    handle = runs(engine)
    run = handle.describe()
    assert acts.log == []
    if waits:
        assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
        assert "it was called in another thread" in (run.error or "")
    else:
        assert handle.outputs() == {"a": "beside it"}


@pytest.mark.parametrize(
    "ask",
    [
        lambda ctx: ctx.emit("shop.late"),
        lambda ctx: ctx.on_end(lambda _end: None),
        lambda ctx: ctx.on_cleanup(lambda: None),
    ],
    ids=["emit", "on_end", "on_cleanup"],
)
def test_what_an_observer_asks_of_the_attempt_comes_too_late_and_is_refused(
    make_engine: MakeEngine, acts: Acts, ask: Callable[[Any], None]
) -> None:
    engine = make_engine(acts.line("a"), observers=[lambda end: ask(end.ctx)])
    handle = runs(engine)
    assert handle.status() is RunStatus.SUCCEEDED
    [event] = [event for event in handle.history() if event.type == "observer.failed"]
    assert "the stage is over" in event.data["error"]


def test_they_nest_by_priority_and_then_as_given(make_engine: MakeEngine, acts: Acts) -> None:
    def noting(name: str, priority: int) -> Wrap:
        def around(ctx: Any, call_next: Any) -> Any:
            acts.log.append(f"{name} before")
            output = call_next(ctx)
            acts.log.append(f"{name} after")
            return output

        return Wrap(around, name, priority)

    engine = make_engine(acts.line("a"), interceptors=[noting("c", 20), noting("a", 10), noting("d", 20)])
    assert runs(engine).outputs() == {"a": "a"}
    assert acts.log == ["a before", "c before", "d before", "a", "d after", "c after", "a after"]


@pytest.mark.parametrize("kind", [Wrap, WrapAsync])
@pytest.mark.parametrize(
    ("answer", "status", "park"),
    [
        (StageOutput.ok({"mine": 1}), RunStatus.COMPENSATED, None),
        (StageOutput.skip("not today"), RunStatus.COMPENSATED, None),
        (StageOutput.reject("closed"), RunStatus.FAILED, None),
        (StageOutput.fail("closed"), RunStatus.FAILED, None),
        (StageOutput.retry("closed"), RunStatus.FAILED, None),
        (StageOutput.cancel("closed"), RunStatus.CANCELLED, None),
        (TransientError("closed"), RunStatus.FAILED, None),
        (PermanentError("closed"), RunStatus.FAILED, None),
        (TypeError("slip"), RunStatus.PARKED, ParkReason.BUG),
    ],
    ids=str,
)
def test_an_answer_takes_the_bodys_place_and_nothing_is_undone_for_it(
    make_engine: MakeEngine, acts: Acts, kind: Any, answer: Any, status: RunStatus, park: ParkReason | None
) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        if ctx.stage == "b":
            return call_next(ctx)
        if isinstance(answer, Exception):
            raise answer
        return answer

    acts.play("b", StageOutput.reject("no"))
    engine = make_engine(acts.line("a b"), interceptors=[kind(around)], retry=ONCE)
    run = runs(engine).describe()
    expected = RunStatus.FAILED if status is RunStatus.COMPENSATED else status
    assert (run.status, run.park_reason) == (expected, park)
    assert acts.log == (["b"] if status is RunStatus.COMPENSATED else [])


def test_the_context_may_be_changed_on_the_way_in(make_engine: MakeEngine, acts: Acts) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        return call_next(replace(ctx, metadata={**ctx.metadata, "tenant": "north"}))

    acts.play("a", lambda ctx: ctx.metadata["tenant"])
    assert runs(make_engine(acts.line("a"), interceptors=[Wrap(around)])).outputs() == {"a": "north"}


def test_the_output_may_be_changed_on_the_way_out(make_engine: MakeEngine, acts: Acts) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        return StageOutput.ok({"said": call_next(ctx).value})

    assert runs(make_engine(acts.line("a"), interceptors=[Wrap(around)])).outputs() == {"a": {"said": "a"}}


def test_what_it_raises_after_the_body_is_the_outcome_and_the_stage_is_undone(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        call_next(ctx)
        raise PermanentError("checked afterwards")

    run = runs(make_engine(acts.line("a"), interceptors=[Wrap(around)])).describe()
    assert (run.status, run.error) == (RunStatus.COMPENSATED, "PermanentError: checked afterwards")
    assert acts.log == ["a", "undo a unknown"]


def test_an_interceptor_that_forgets_to_return_parks_the_run_by_its_name(make_engine: MakeEngine, acts: Acts) -> None:
    def forgets(ctx: Any, call_next: Any) -> Any:
        call_next(ctx)

    run = runs(make_engine(acts.line("a"), interceptors=[Wrap(forgets, "forgetful")])).describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "interceptor forgetful: around() returned NoneType" in str(run.error)


# --- for a body that raised -------------------------------------------------------------------------------------------


def answering(answer: Any) -> Wrap:
    def around(ctx: Any, call_next: Any) -> Any:
        try:
            return call_next(ctx)
        except ValueError:
            return answer

    return Wrap(around)


@pytest.mark.parametrize("answer", [StageOutput.ok("instead"), StageOutput.skip("never mind")], ids=str)
def test_when_it_answers_the_run_goes_on_and_a_later_undo_knows_that_the_stage_may_have_acted(
    make_engine: MakeEngine, acts: Acts, answer: StageOutput
) -> None:
    acts.play("a", ValueError("who knows"))
    acts.play("b", StageOutput.reject("no"))
    run = runs(make_engine(acts.line("a b"), interceptors=[answering(answer)])).describe()
    assert run.status is RunStatus.COMPENSATED
    assert acts.log == ["a", "b", "undo a unknown"]


@pytest.mark.parametrize("answer", [StageOutput.ok("instead"), StageOutput.skip("never mind")], ids=str)
def test_when_it_answers_and_all_goes_well_nothing_is_undone(
    make_engine: MakeEngine, acts: Acts, answer: StageOutput
) -> None:
    acts.play("a", ValueError("who knows"))
    handle = runs(make_engine(acts.line("a b"), interceptors=[answering(answer)]))
    assert handle.status() is RunStatus.SUCCEEDED
    assert handle.outputs() == ({"a": "instead", "b": "b"} if answer.value else {"b": "b"})
    assert acts.log == ["a", "b"]


def test_a_retry_keeps_the_doubt(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", ValueError("who knows"), ValueError("who knows"))
    engine = make_engine(
        acts.line("a"), interceptors=[answering(StageOutput.retry("again"))], retry=RetryPolicy(max_attempts=2)
    )
    assert runs(engine).status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "a", "undo a unknown"]


def test_on_unknown_is_heeded_whatever_it_answers(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", ValueError("who knows"))
    engine = make_engine(acts.line("a", a={"on_unknown": "park"}), interceptors=[answering(StageOutput.retry("again"))])
    run = runs(engine).describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.UNKNOWN)
    assert acts.log == ["a"]


def test_a_reject_vouches_that_nothing_happened(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", ValueError("declined"))
    run = runs(make_engine(acts.line("a"), interceptors=[answering(StageOutput.reject("declined"))])).describe()
    assert run.status is RunStatus.FAILED
    assert acts.log == ["a"]


def test_a_pivot_that_may_have_acted_counts_as_passed(make_engine: MakeEngine, acts: Acts) -> None:
    acts.play("a", ValueError("who knows"))
    acts.play("b", StageOutput.reject("no"))
    engine = make_engine(acts.line("a b", a={"pivot": True}), interceptors=[answering(StageOutput.ok("instead"))])
    assert runs(engine).status() is RunStatus.FAILED
    assert acts.log == ["a", "b"]


# --- observers --------------------------------------------------------------------------------------------------------


class Hears:
    """An observer that keeps what it was told, and what was saved by then."""

    def __init__(self) -> None:
        self.ends: list[AttemptEnd] = []
        self.saved: list[dict[str, Any]] = []
        self.engine: InProcessEngine | None = None

    def __call__(self, end: AttemptEnd) -> None:
        self.ends.append(end)
        if self.engine is not None:
            self.saved.append(self.engine.handle(end.ctx.run_id).outputs())

    @property
    def said(self) -> list[str]:
        return [
            f"{'undo ' if end.undo else ''}{end.ctx.stage} {end.result.kind}{'' if end.committed else ' not committed'}"
            for end in self.ends
        ]


def _hang(_end: AttemptEnd) -> None:
    threading.Event().wait(60)


async def _hang_in_the_loop(_end: AttemptEnd) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("observer", [_hang, _hang_in_the_loop])
def test_one_that_hangs_is_interrupted(
    make_engine: MakeEngine, acts: Acts, monkeypatch: pytest.MonkeyPatch, observer: Any
) -> None:
    monkeypatch.setattr("stageflow_durable.engine.observers.SECONDS", 0.2)
    handle = runs(make_engine(acts.line("a"), observers=[observer]))
    assert handle.status() is RunStatus.SUCCEEDED
    [event] = [event for event in handle.history() if event.type == "observer.failed"]
    assert "it took longer than its timeout of 0.2 s" in event.data["error"]


class Nameless:
    """An observer whose own code does not even say its name."""

    def __call__(self, _end: AttemptEnd) -> None:
        raise ValueError("no")

    def __repr__(self) -> str:
        raise SystemExit(3)


def test_one_that_cannot_be_named_is_told_by_its_type(make_engine: MakeEngine, acts: Acts) -> None:
    handle = runs(make_engine(acts.line("a b"), observers=[Nameless()]))
    assert handle.status() is RunStatus.SUCCEEDED
    assert {event.data["observer"] for event in handle.history() if event.type == "observer.failed"} == {"Nameless"}


def test_they_are_told_after_the_commit(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    hears.engine = make_engine(acts.line("a b"), observers=[hears])
    runs(hears.engine)
    assert hears.said == ["a ok", "b ok"]
    assert hears.saved == [{"a": "a"}, {"a": "a", "b": "b"}]
    assert [end.result.value for end in hears.ends] == ["a", "b"]


@pytest.mark.parametrize(
    ("play", "said"),
    [
        ([TransientError("busy")], ["a retry", "a ok"]),
        ([StageOutput.retry("busy", 7)], ["a retry", "a ok"]),
        ([StageOutput.skip("no need")], ["a skip"]),
        ([StageOutput.reject("no")], ["a reject"]),
        ([StageOutput.cancel("no")], ["a cancel", "undo a ok"]),
        ([FAILS("no")], ["a fail", "undo a ok"]),
        ([{"not": object()}], ["a fail"]),
    ],
)
def test_they_are_told_what_follows_of_stages_and_of_undos(
    make_engine: MakeEngine, acts: Acts, play: list[Any], said: list[str]
) -> None:
    hears = Hears()
    acts.play("a", *play)
    runs(make_engine(acts.line("a"), observers=[hears]))
    assert hears.said == said
    raised = [play[0]] if isinstance(play[0], Exception) else [None]
    assert [end.error for end in hears.ends[:1]] == raised
    if hears.ends[0].result.kind == "retry":
        assert isinstance(hears.ends[0].result.after, float)


def test_they_are_told_of_undos_that_fail(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    acts.play("b", StageOutput.reject("no"))
    acts.play("undo a", TransientError("busy"), PermanentError("never"))
    runs(make_engine(acts.line("a b"), observers=[hears]))
    assert hears.said == ["a ok", "b reject", "undo a retry", "undo a fail"]
    assert [type(end.error) for end in hears.ends[2:]] == [TransientError, PermanentError]


def late(engine: InProcessEngine) -> Callable[[Any], str]:
    def paused(_ctx: Any) -> str:
        engine.clock.advance(60)  # past the lease, without a heartbeat
        engine.sweep()
        return "late"

    return paused


def test_they_are_told_of_an_end_that_was_fenced(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    engine = make_engine(acts.line("a"), observers=[hears])
    acts.play("a", late(engine), "in time")
    engine.enqueue("line", {})
    engine.step(engine.crew[0])
    assert hears.said == ["a ok not committed"]
    engine.drain()
    assert hears.said == ["a ok not committed", "a ok"]
    assert [end.result.value for end in hears.ends] == ["late", "in time"]


def test_they_are_told_of_an_undo_that_was_fenced(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    engine = make_engine(acts.line("a b"), observers=[hears])
    acts.play("b", StageOutput.reject("no"))
    acts.play("undo a", late(engine))
    engine.enqueue("line", {})
    zombie = engine.crew[0]
    while "undo a ok" not in acts.log:
        assert engine.step(zombie)
    assert hears.said == ["a ok", "b reject", "undo a ok not committed"]
    engine.drain()
    assert hears.said[3:] == ["undo a ok"]


def test_they_are_told_when_the_database_stays_away(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    engine = make_engine(acts.line("a"), observers=[hears])
    for number in range(1, 60):
        engine.faults.at("before", "succeed", number=number, error=StoreUnavailable("gone"))
    engine.enqueue("line", {})
    engine.step()
    assert hears.said == ["a fail not committed"]


def test_of_the_end_of_a_process_nobody_is_told(make_engine: MakeEngine, acts: Acts) -> None:
    hears = Hears()
    acts.play("a", DIES)
    runs(make_engine(acts.line("a"), observers=[hears]))
    assert hears.said == ["a ok"]


async def failing_async(end: AttemptEnd) -> None:
    await asyncio.sleep(0)
    raise ValueError(f"observer's own, at {end.ctx.stage}")


def failing(end: AttemptEnd) -> None:
    raise ValueError(f"observer's own, at {end.ctx.stage}")


@pytest.mark.parametrize("observer", [failing, failing_async])
def test_one_that_fails_changes_nothing_and_is_logged_once(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture, observer: Any
) -> None:
    hears = Hears()
    handle = runs(make_engine(acts.line("a"), observers=[observer, hears]))
    assert handle.result() == {"a": "a"}
    assert hears.said == ["a ok"]
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR] == [
        f"observer {observer.__name__} failed at stage a of run {handle.run_id}: ValueError: observer's own, at a"
    ]
    [event] = [event for event in handle.history() if event.type == "observer.failed"]
    assert event.data == {"stage": "a", "observer": observer.__name__, "error": "ValueError: observer's own, at a"}


def test_one_that_fails_at_a_fenced_end_writes_nothing_into_the_others_run(
    make_engine: MakeEngine, acts: Acts, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(acts.line("a"), observers=[failing])
    acts.play("a", late(engine), DIES)
    handle = engine.enqueue("line", {})
    engine.step(engine.crew[0])
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "observer.failed" not in [event.type for event in handle.history()]


def test_a_stage_may_ask_to_be_told_of_its_own_end(make_engine: MakeEngine, acts: Acts) -> None:
    hears, order = Hears(), list[str]()

    def asks(ctx: Any) -> str:
        ctx.on_end(hears)
        ctx.on_end(lambda _end: order.append("second"))
        ctx.on_cleanup(lambda: order.append("cleanup"))
        return "a"

    acts.play("a", asks)
    hears.engine = engine = make_engine(acts.line("a b"), observers=[lambda _end: order.append("engine")])
    runs(engine)
    assert (hears.said, hears.saved) == (["a ok"], [{"a": "a"}])
    assert order == ["cleanup", "second", "engine", "engine"]


# --- the tracker's interceptor ----------------------------------------------------------------------------------------


class Hooks(BaseInterceptor):
    """Notes what is called; ``answer`` is before's, ``action`` is on_error's; an exception is raised."""

    def __init__(
        self, log: list[str], name: str = "hooks", priority: int = 100, *, answer: Any = None, action: Any = None
    ) -> None:
        self.log, self.name, self.priority = log, name, priority
        self.answer, self.action = answer, action

    async def before(self, stage_name: str, ctx: Any) -> InterceptorResult | None:
        await asyncio.sleep(0)
        self.log.append(f"{self.name} before {stage_name}")
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]  # what it was given

    async def after(self, stage_name: str, result: StageOutput, ctx: Any) -> None:
        self.log.append(f"{self.name} after {stage_name} {result.kind}")

    async def on_error(self, stage_name: str, error: Exception, ctx: Any) -> ErrorAction:
        self.log.append(f"{self.name} on_error {stage_name} {type(error).__name__}")
        if isinstance(self.action, Exception):
            raise self.action
        return self.action or ErrorAction.FAIL


async def paid(_ctx: Any) -> str:
    return "paid"


@pytest.mark.parametrize("body", [lambda _ctx: "paid", paid], ids=["def", "async def"])
def test_hooks_are_called_outermost_first_and_back(make_engine: MakeEngine, body: Any) -> None:
    log: list[str] = []
    engine = make_engine(
        Pipeline[Any, Any]("p").stage("a", body), interceptors=[Hooks(log, "in", 2), Hooks(log, "out", 1)]
    )
    assert runs(engine).result() == {"a": "paid"}
    assert log == ["out before a", "in before a", "in after a ok", "out after a ok"]


def test_no_hook_is_called_of_one_whose_before_did_not_complete(make_engine: MakeEngine, acts: Acts) -> None:
    log: list[str] = []
    chain = [Hooks(log, "1", 1), Hooks(log, "2", 2, answer=PermanentError("closed")), Hooks(log, "3", 3)]
    assert runs(make_engine(acts.line("a"), interceptors=chain)).status() is RunStatus.FAILED
    assert log == ["1 before a", "2 before a", "1 on_error a PermanentError", "1 after a fail"]
    assert acts.log == []


@pytest.mark.parametrize(
    ("answer", "outputs", "kind"),
    [
        (InterceptorResult(stage_ran=False, result={"cached": True}), {"a": {"cached": True}}, "ok"),
        (InterceptorResult(stage_ran=False, result=None), {"a": None}, "ok"),
        (InterceptorResult(stage_ran=False, result=StageOutput.ok(7)), {"a": 7}, "ok"),
        (InterceptorResult(stage_ran=False, error="Authentication required"), {}, "fail"),
        (InterceptorResult(stage_ran=True), {"a": "a"}, "ok"),
    ],
    ids=str,
)
def test_before_may_answer_and_what_is_further_in_is_not_called(
    make_engine: MakeEngine, acts: Acts, answer: InterceptorResult, outputs: dict[str, Any], kind: str
) -> None:
    log: list[str] = []
    chain = [Hooks(log, "1", 1), Hooks(log, "2", 2, answer=answer), Hooks(log, "3", 3)]
    handle = runs(make_engine(acts.line("a"), interceptors=chain))
    assert handle.outputs() == outputs
    inner = answer.stage_ran
    assert log == [
        *("1 before a", "2 before a"),
        *(["3 before a", f"3 after a {kind}"] if inner else []),
        *(f"2 after a {kind}", f"1 after a {kind}"),
    ]
    assert acts.log == (["a"] if inner else [])


def test_a_result_beside_a_stage_that_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="say stage_ran=False"):
        InterceptorResult(result=7)


class TestOnError:
    def test_fail_hands_the_error_on_and_the_policy_judges_it(self, make_engine: MakeEngine, acts: Acts) -> None:
        log: list[str] = []
        acts.play("a", TransientError("busy"))
        engine = make_engine(acts.line("a"), interceptors=[Hooks(log, "out", 1), Hooks(log, "in", 2)])
        assert runs(engine).result() == {"a": "a"}
        assert log[2:6] == [
            *("in on_error a TransientError", "out on_error a TransientError"),
            *("in after a retry", "out after a retry"),
        ]

    def test_retry_makes_another_attempt_of_what_the_policy_would_not_retry(
        self, make_engine: MakeEngine, acts: Acts
    ) -> None:
        log: list[str] = []
        acts.play("a", PermanentError("no"))
        chain = [Hooks(log, "out", 1), Hooks(log, "in", 2, action=ErrorAction.RETRY)]
        handle = runs(make_engine(acts.line("a"), interceptors=chain))
        assert handle.result() == {"a": "a"}
        assert acts.log == ["a", "a"]
        assert "out on_error a PermanentError" not in log
        [event] = [event for event in handle.history() if event.type == "work.retry_attempt"]
        assert event.data["error"] == "PermanentError: no"

    def test_retry_ends_with_the_policys_attempts(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", *[PermanentError("no")] * 3)
        chain = [Hooks([], action=ErrorAction.RETRY)]
        run = runs(make_engine(acts.line("a"), interceptors=chain, retry=RetryPolicy(max_attempts=3))).describe()
        assert (run.status, run.error) == (RunStatus.COMPENSATED, "PermanentError: no")
        assert acts.log == ["a", "a", "a", "undo a unknown"]

    def test_skip_lets_the_run_go_on_and_keeps_the_undo(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", PermanentError("no"))
        handle = runs(make_engine(acts.line("a b"), interceptors=[Hooks([], action=ErrorAction.SKIP)]))
        assert handle.result() == {"b": "b"}
        undo = handle.describe().stage("a").undo
        assert undo is not None
        assert undo.state is StepState.INTENDED

    def test_what_it_raises_takes_the_errors_place(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TransientError("busy"))
        run = runs(make_engine(acts.line("a"), interceptors=[Hooks([], action=PermanentError("enough"))])).describe()
        assert run.error == "PermanentError: enough"
        assert acts.log == ["a", "undo a unknown"]

    def test_what_is_no_action_is_a_bug_by_the_interceptors_name(self, make_engine: MakeEngine, acts: Acts) -> None:
        acts.play("a", TransientError("busy"))
        run = runs(make_engine(acts.line("a"), interceptors=[Hooks([], action="perhaps")])).describe()
        assert run.status is RunStatus.PARKED
        assert run.error == "TypeError: interceptor hooks: on_error() returned str, not an ErrorAction"

    def test_it_hears_of_errors_further_in(self, make_engine: MakeEngine, acts: Acts) -> None:
        log: list[str] = []
        chain = [Hooks(log, "out", 1, action=ErrorAction.RETRY), Hooks(log, "in", 2, answer=PermanentError("closed"))]
        engine = make_engine(acts.line("a"), interceptors=chain, retry=ONCE)
        assert runs(engine).status() is RunStatus.FAILED
        assert log == ["out before a", "in before a", "out on_error a PermanentError", "out after a fail"]


def test_after_is_not_called_of_what_was_not_committed(make_engine: MakeEngine, acts: Acts) -> None:
    log: list[str] = []
    engine = make_engine(acts.line("a"), interceptors=[Hooks(log)])
    acts.play("a", late(engine), "in time")
    engine.enqueue("line", {})
    engine.step(engine.crew[0])
    assert log == ["hooks before a"]
    engine.drain()
    assert log == ["hooks before a", "hooks before a", "hooks after a ok"]


def test_an_after_that_fails_turns_no_charge_into_a_refund(make_engine: MakeEngine, acts: Acts) -> None:
    class Fails(Hooks):
        async def after(self, stage_name: str, result: StageOutput, ctx: Any) -> None:
            raise PermanentError("the metrics are away")

    handle = runs(make_engine(acts.line("a"), interceptors=[Fails([])]))
    assert handle.result() == {"a": "a"}
    assert acts.log == ["a"]
    [event] = [event for event in handle.history() if event.type == "observer.failed"]
    assert event.data["observer"] == "hooks.after"


def test_a_before_that_answers_something_else_is_a_bug(make_engine: MakeEngine, acts: Acts) -> None:
    run = runs(make_engine(acts.line("a"), interceptors=[Hooks([], answer={"cached": 1})])).describe()
    assert run.error == "TypeError: interceptor hooks: before() returned dict, not an InterceptorResult"
    assert acts.log == []


# --- the idempotency interceptor --------------------------------------------------------------------------------------


def guard(store: MemoryIdempotencyStore) -> IdempotencyInterceptor:
    return IdempotencyInterceptor(store, lambda ctx: str(ctx.input["order"]), wait_seconds=0)


def test_a_second_run_gets_what_the_first_has_committed(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"), interceptors=[guard(MemoryIdempotencyStore())])
    acts.play("a", {"payment": 1}, {"payment": 2})
    first, second = runs(engine, {"order": 7}), runs(engine, {"order": 7})
    assert first.result() == second.result() == {"a": {"payment": 1}}
    assert acts.log == ["a"]
    [hit] = [event for event in second.history() if event.type == "work.idempotency_hit"]
    assert (hit.data["key"], hit.data["operation"], hit.data["origin"]) == ("7", "line/a", "body")


def test_what_was_fenced_is_not_remembered(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"), interceptors=[guard(MemoryIdempotencyStore())])
    acts.play("a", late(engine), "in time", "again")
    handle = engine.enqueue("line", {"order": 7})
    engine.step(engine.crew[0])
    engine.drain()
    assert handle.result() == runs(engine, {"order": 7}).result() == {"a": "in time"}


def test_two_guards_and_a_change_of_context_between_them_do_not_meet(make_engine: MakeEngine, acts: Acts) -> None:
    def around(ctx: Any, call_next: Any) -> Any:
        return call_next(replace(ctx, metadata={"tenant": "north"}))

    inner, outer = guard(MemoryIdempotencyStore()), guard(MemoryIdempotencyStore())
    inner.priority = 30
    engine = make_engine(acts.line("a"), interceptors=[outer, Wrap(around, priority=20), inner])
    for _ in range(2):
        assert runs(engine, {"order": 7}).result() == {"a": "a"}
    assert acts.log == ["a"]
    assert (len(inner._running._held), len(outer._running._held)) == (0, 0)
