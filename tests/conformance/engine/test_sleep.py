"""Sleeping durably: a row until its time, whatever happens to workers, messages and the run meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from math import nan
from typing import Any

import pytest
from pydantic import BaseModel

from stageflow_durable import Pipeline, RetryPolicy, RunStatus, StageOutput, Submission
from stageflow_durable.engine.handle import RunHandle
from stageflow_durable.errors import DefinitionError, StoreUnavailable, UnknownRun
from stageflow_durable.model.status import ParkReason, StageState, WaitingFor
from stageflow_durable.testing import Crash, InProcessEngine
from tests.conformance.engine.acts import FAILS, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.services.rows import rows_of

DAYS = timedelta(days=3)
LONG = timedelta(days=30)


class Timeless:
    """What is not even to be shown."""

    def __repr__(self) -> str:
        raise ValueError("never")


class Numberless(datetime):
    """A moment whose number is none."""

    def timestamp(self) -> float:
        return nan


def fails(error: Exception) -> None:
    raise error


def around(acts: Acts, *, name: str = "line", **options: Any) -> Pipeline[Any, Any]:
    """A sleep between two stages that have undos."""
    line = acts.line("a", name=name).sleep("nap", **(options or {"duration": DAYS}))
    return line.stage("b", acts.stage, compensate=acts.undo)


@pytest.fixture(name="engine")
def _engine(make_engine: MakeEngine, acts: Acts) -> InProcessEngine:
    """An engine with that pipeline."""
    return make_engine(around(acts))


def asleep(engine: InProcessEngine, name: str = "line") -> RunHandle:
    """A run that has come to its sleep."""
    handle = engine.enqueue(name, {})
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.TIME
    return handle


def test_it_goes_on_when_its_time_has_come_and_not_before(engine: InProcessEngine, acts: Acts) -> None:
    handle = asleep(engine)
    began = engine.clock.time()
    run = handle.describe()
    nap = run.stage("nap")
    assert (run.status, nap.state, nap.kind) == (RunStatus.WAITING, StageState.WAITING, "sleep")
    assert nap.wake_at is not None
    assert nap.wake_at.timestamp() == pytest.approx(began + DAYS.total_seconds(), abs=1)
    engine.advance(DAYS.total_seconds() - 10)
    engine.sweep()
    engine.work()
    assert acts.log == ["a"]
    engine.advance(11)
    engine.sweep()
    engine.work()
    assert acts.log == ["a", "b"]
    assert handle.result() == {"a": "a", "b": "b"}


def test_while_it_sleeps_there_is_a_row_and_nothing_else(engine: InProcessEngine) -> None:
    handle = asleep(engine)
    assert len(engine.messages) == 0
    published = engine.messages.published
    for _day in range(2):
        engine.advance(86_400)
        engine.sweep()
    assert (len(engine.messages), engine.messages.published) == (0, published)
    assert handle.describe().stage("nap").attempts == ()
    assert [(row["owner"], row["state"]) for row in rows_of(engine, "strands")] == [(None, "waiting")]
    assert len(rows_of(engine, "attempts")) == 1


def test_workers_that_die_and_messages_that_are_lost_do_not_wake_it(engine: InProcessEngine, acts: Acts) -> None:
    handle = asleep(engine)
    engine.messages.lose_all()
    engine.crew = [engine.hired()]
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


def test_a_worker_that_joins_does_not_wake_a_sleep_whose_first_message_was_lost(
    make_engine: MakeEngine, acts: Acts
) -> None:
    engine = make_engine(Pipeline[Any, Any]("line").sleep("nap", DAYS).stage("b", acts.stage))
    handle = engine.enqueue("line", {})
    engine.messages.lose_all()
    engine.advance(5)
    engine.sweep()
    engine.work()
    due = handle.describe().stage("nap").wake_at
    assert due is not None
    engine.crew = [engine.hired()]
    engine.advance(60)
    engine.sweep()
    engine.work()
    assert (acts.log, handle.describe().stage("nap").wake_at) == ([], due)


@pytest.mark.parametrize("end", ["cancel", "compensate", "deadline"])
def test_a_run_that_is_stopped_while_it_sleeps_undoes_what_it_did(
    engine: InProcessEngine, acts: Acts, end: str
) -> None:
    handle = engine.enqueue("line", {}, deadline=DAYS / 2)
    engine.work()
    if end == "cancel":
        engine.cancel(handle.run_id, reason="no more", actor="ann")
    elif end == "compensate":
        engine.compensate(handle.run_id, reason="no more", actor="ann")
    engine.drain(LONG)
    assert acts.log == ["a", "undo a ok"]
    run = handle.describe()
    assert (run.status, run.stage("nap").state) == (RunStatus.COMPENSATED, StageState.CANCELLED)


def test_what_sleeps_is_not_pruned_and_what_has_slept_is(engine: InProcessEngine) -> None:
    handle = asleep(engine)
    engine.advance(86_400 * 2)
    assert engine.store.prune(3600.0, sleep=lambda _seconds: None).deleted == 0
    engine.drain(LONG)
    engine.advance(86_400)
    assert engine.store.prune(3600.0, sleep=lambda _seconds: None).deleted == 1
    with pytest.raises(UnknownRun, match="was pruned"):
        handle.describe()


def test_a_run_without_undos_that_is_resumed_wakes_when_it_would_have(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(Pipeline[Any, Any]("line").stage("a", acts.stage).sleep("nap", DAYS).stage("b", acts.stage))
    handle = asleep(engine)
    due = handle.describe().stage("nap").wake_at
    engine.cancel(handle.run_id, reason="wait", actor="ann")
    assert handle.describe().waiting_for is None
    engine.advance(86_400)
    engine.resume(handle.run_id, reason="go on", actor="ann")
    assert (handle.status(), handle.describe().stage("nap").wake_at) == (RunStatus.WAITING, due)
    engine.drain(LONG)
    assert handle.status() is RunStatus.SUCCEEDED


def test_a_run_that_is_resumed_with_work_beside_its_sleep_is_running_and_not_waiting(
    make_engine: MakeEngine, acts: Acts
) -> None:
    graph = Pipeline[Any, Any]("line", on_failure="park").stage("a", acts.stage).sleep("a-nap", DAYS, after="a")
    engine = make_engine(graph.stage("b", acts.stage, after="a", retry=RetryPolicy(max_attempts=1)))
    acts.play("b", FAILS("no"))
    handle = engine.enqueue("line", {})
    engine.work()
    assert handle.status() is RunStatus.PARKED
    resumed = engine.resume(handle.run_id, reason="go on", actor="ann")
    assert resumed.status is RunStatus.RUNNING
    engine.work()
    assert handle.status() is RunStatus.WAITING


def test_a_sleep_may_come_first_and_last_and_its_run_has_the_result_of_its_last_body(
    make_engine: MakeEngine,
) -> None:
    class Parcel(BaseModel):
        number: int

    line = Pipeline("line", result_type=Parcel).sleep("before", 3600).stage("a", lambda _ctx: Parcel(number=7))
    engine = make_engine(line.sleep("after", 3600))
    began = engine.clock.time()
    handle = engine.enqueue("line", {})
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.TIME
    engine.drain(LONG)
    assert handle.result() == Parcel(number=7)
    assert engine.clock.time() - began == pytest.approx(7200, abs=5)


def test_a_sleep_that_comes_first_beside_work_sleeps_since_the_run_was_accepted(
    make_engine: MakeEngine, acts: Acts
) -> None:
    graph = Pipeline[Any, Any]("line").stage("a", acts.stage, after=()).sleep("nap", DAYS, after=())
    engine = make_engine(graph.stage("z", acts.stage, after=("a", "nap")))
    accepted = engine.clock.time()
    handle = engine.enqueue("line", {})
    engine.advance(3600)
    engine.work()
    due = handle.describe().stage("nap").wake_at
    assert due is not None
    assert due.timestamp() == pytest.approx(accepted + DAYS.total_seconds(), abs=1)


def test_a_pipeline_may_only_sleep(make_engine: MakeEngine) -> None:
    engine = make_engine(Pipeline[Any, Any]("line").sleep("nap", 60))
    handles = engine.enqueue_many("line", [Submission({}) for _number in range(3)])
    engine.drain()
    assert [handle.status() for handle in handles] == [RunStatus.SUCCEEDED] * 3


def test_in_a_branch_it_holds_up_the_join_and_not_its_neighbour(make_engine: MakeEngine, acts: Acts) -> None:
    graph = Pipeline[Any, Any]("line").stage("a", acts.stage).sleep("nap", DAYS, after="a")
    graph = graph.stage("b", acts.stage, after="a").stage("z", acts.stage, after=("nap", "b"))
    engine = make_engine(graph)
    handle = engine.enqueue("line", {})
    engine.work()
    assert (acts.log, handle.describe().waiting_for) == (["a", "b"], WaitingFor.TIME)
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "b", "z"], RunStatus.SUCCEEDED)


def test_a_fork_sleeps_anew_where_it_begins_at_the_sleep_and_not_where_it_was_slept_before(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = asleep(engine)
    engine.drain(LONG)
    slept = engine.fork(handle.run_id, from_stage="b", reason="again", actor="ann")
    anew = engine.fork(handle.run_id, from_stage="nap", reason="again", actor="ann")
    engine.work()
    assert (slept.status(), anew.describe().waiting_for) == (RunStatus.SUCCEEDED, WaitingFor.TIME)
    engine.drain(LONG)
    assert anew.status() is RunStatus.SUCCEEDED
    assert acts.log == ["a", "b", "b", "b"]


def test_a_stage_that_is_added_behind_a_sleep_is_reached_by_runs_that_sleep(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = asleep(engine)
    due = handle.describe().stage("nap").wake_at
    longer = acts.line("a").sleep("nap", 2 * DAYS).stage("new", acts.stage).stage("b", acts.stage)
    engine.deploy(longer)
    assert list(engine.check()) == []
    assert due is not None
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "new", "b"], RunStatus.SUCCEEDED)
    woken = next(event.at for event in handle.history() if event.type == "stage.woken")
    assert woken.timestamp() == pytest.approx(due.timestamp(), abs=5)


def test_a_sleep_ends_as_its_run_knows_it_while_no_live_worker_knows_the_newest(
    engine: InProcessEngine, acts: Acts
) -> None:
    handle = asleep(engine)
    old = engine.crew[0]
    engine.deploy(acts.line("a").sleep("nap", DAYS).stage("new", acts.stage).stage("b", acts.stage))
    for worker in engine.crew:
        worker.owner.retire()
    engine.crew = [old]
    engine.drain(DAYS + timedelta(minutes=10))
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


def test_a_stage_that_waits_for_its_retry_and_is_a_sleep_by_now_sleeps_from_then_on(
    make_engine: MakeEngine, acts: Acts
) -> None:
    def graph(nap: Callable[[Pipeline[Any, Any]], Pipeline[Any, Any]]) -> Pipeline[Any, Any]:
        begun = nap(Pipeline[Any, Any]("line").stage("a", acts.stage))
        return begun.stage("b", acts.stage, after="a").stage("z", acts.stage, after=("nap", "b"))

    acts.play("nap", StageOutput.retry("later", after=600))
    acts.play("b", StageOutput.retry("later", after=60))
    engine = make_engine(graph(lambda line: line.stage("nap", acts.stage, after="a")))
    handle = engine.enqueue("line", {})
    engine.work()
    engine.deploy(graph(lambda line: line.sleep("nap", DAYS, after="a")))
    engine.advance(120)
    engine.sweep()
    engine.work()
    assert "run.migrated" in [event.type for event in handle.history()]
    began = engine.clock.time()
    engine.drain(LONG)
    assert (acts.log, handle.status()) == (["a", "nap", "b", "b", "z"], RunStatus.SUCCEEDED)
    assert engine.clock.time() - began >= DAYS.total_seconds()


# --- until ------------------------------------------------------------------------------------------------------------


def test_until_a_moment(make_engine: MakeEngine, acts: Acts, moment: Callable[[InProcessEngine], datetime]) -> None:
    engine = make_engine(Pipeline[Any, Any]("other").stage("x", acts.stage))
    at = moment(engine)
    engine.deploy(around(acts, until=at))
    handle = asleep(engine)
    assert handle.describe().stage("nap").wake_at == at
    engine.drain(LONG)
    assert handle.status() is RunStatus.SUCCEEDED
    assert engine.clock.time() >= at.timestamp()


@pytest.mark.parametrize("asked", [False, True], ids=["a datetime", "a function"])
def test_until_a_moment_also_where_the_clock_is_set_back_meanwhile(
    make_engine: MakeEngine, acts: Acts, moment: Callable[[InProcessEngine], datetime], asked: bool
) -> None:
    engine = make_engine(Pipeline[Any, Any]("other").stage("x", acts.stage))
    at = moment(engine)
    engine.deploy(around(acts, until=(lambda _ctx: at) if asked else at))
    handle = asleep(engine)
    engine.advance(3600)
    assert engine.store.move_times(-1800.0, 60.0, 10.0)  # as if it had been
    engine.drain(LONG)
    assert handle.status() is RunStatus.SUCCEEDED
    assert engine.clock.time() >= at.timestamp()


@pytest.fixture
def moment() -> Callable[[InProcessEngine], datetime]:
    """Two days from now, by an engine's clock."""
    return lambda engine: datetime.fromtimestamp(round(engine.clock.time()) + 2 * 86_400, UTC)


def test_until_what_a_function_of_the_context_says_which_is_asked_once(make_engine: MakeEngine, acts: Acts) -> None:
    asked: list[Any] = []

    def until(ctx: Any) -> datetime:
        asked.append((ctx.stage, ctx.outputs["a"], ctx.input["days"]))
        return datetime.fromtimestamp(engine.clock.time(), UTC) + timedelta(days=ctx.input["days"])

    engine = make_engine(around(acts, until=until))
    began = engine.clock.time()
    handle = engine.enqueue("line", {"days": 2})
    engine.work()
    assert handle.describe().waiting_for is WaitingFor.TIME
    engine.drain(LONG)
    assert (asked, handle.status()) == ([("nap", "a", 2)], RunStatus.SUCCEEDED)
    assert engine.clock.time() - began == pytest.approx(2 * 86_400, abs=5)


def test_until_what_an_async_function_says(make_engine: MakeEngine, acts: Acts) -> None:
    async def until(_ctx: Any) -> datetime:
        return datetime.fromtimestamp(engine.clock.time() + 3600, UTC)

    engine = make_engine(around(acts, until=until))
    handle = asleep(engine)
    engine.drain(LONG)
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: 3600, "until= has to give an aware datetime, not 3600"),
        (lambda: datetime(2030, 1, 1), "until= has to give an aware datetime"),  # that is the mistake
        (lambda: datetime(9990, 1, 1, tzinfo=UTC), "more than ten years ahead"),
        (Timeless, "until= has to give an aware datetime"),
        (lambda: Numberless(2030, 1, 1, tzinfo=UTC), "more than ten years ahead"),
        (lambda: fails(StoreUnavailable("the database of the calendar is away")), "the calendar is away"),
    ],
)
def test_a_function_that_does_not_say_until_when_parks_the_run_and_is_asked_again_on_resume(
    make_engine: MakeEngine, acts: Acts, said: Callable[[], Any], error: str
) -> None:
    answers: list[Callable[[], Any]] = [said, lambda: datetime(1970, 1, 1, tzinfo=UTC)]
    engine = make_engine(around(acts, until=lambda _ctx: answers.pop(0)()))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason, run.error_stage) == (RunStatus.PARKED, ParkReason.BUG, "nap")
    assert error in (run.error or "")
    assert acts.log == ["a"]
    engine.resume(handle.run_id, reason="mended", actor="ann")
    engine.drain()
    assert (acts.log, handle.status()) == (["a", "b"], RunStatus.SUCCEEDED)


@pytest.mark.parametrize(
    "ask", [lambda ctx: ctx.session, lambda ctx: ctx.on_end(lambda _end: None)], ids=["session", "on_end"]
)
def test_a_function_that_asks_for_what_only_a_body_has_is_told_and_parks_the_run(
    make_engine: MakeEngine, acts: Acts, ask: Callable[[Any], Any]
) -> None:
    def until(ctx: Any) -> datetime:
        ask(ctx)
        return datetime(1970, 1, 1, tzinfo=UTC)

    engine = make_engine(around(acts, until=until))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "it only says until when" in (run.error or "")


def test_a_worker_that_dies_while_it_is_asked_is_followed_by_another(make_engine: MakeEngine, acts: Acts) -> None:
    answers: list[Any] = [Crash("it died"), None]

    def until(_ctx: Any) -> datetime:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return datetime.fromtimestamp(engine.clock.time() + 60, UTC)

    engine = make_engine(around(acts, until=until))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert (answers, acts.log, handle.status()) == ([], ["a", "b"], RunStatus.SUCCEEDED)


# --- definitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "give a duration or until="),
        ({"duration": 5, "until": datetime(2030, 1, 1, tzinfo=UTC)}, "give a duration or until="),
        ({"duration": 0}, "positive: at least 1 ms, at most ten years"),
        ({"duration": -5}, "positive"),
        ({"duration": "3 days"}, "seconds or a timedelta"),
        ({"duration": float("nan")}, "seconds or a timedelta"),
        ({"duration": timedelta(days=4000)}, "at most ten years"),
        ({"until": datetime(2030, 1, 1)}, "an aware datetime"),  # that is the mistake
        ({"until": datetime.max.replace(tzinfo=UTC)}, "an aware datetime"),
        ({"until": 3600}, "an aware datetime"),
        ({"until": lambda: None}, "it is called with one argument"),
    ],
)
def test_what_cannot_hold_is_refused_where_it_is_defined(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(DefinitionError, match=problem) as refused:
        _ = Pipeline[Any, Any]("line").sleep("nap", **given).plan
    assert "stage 'nap'" in str(refused.value)


def test_the_digest_of_a_definition_changes_with_how_long_it_sleeps() -> None:
    plans = [
        Pipeline[Any, Any]("line").sleep("nap", 5).plan,
        Pipeline[Any, Any]("line").sleep("nap", 6).plan,
        Pipeline[Any, Any]("line").sleep("nap", until=datetime(2030, 1, 1, tzinfo=UTC)).plan,
        Pipeline[Any, Any]("line").sleep("nap", until=lambda _ctx: datetime.now(UTC)).plan,
    ]
    assert len({plan.digest for plan in plans}) == 4
    assert [type(plan).decode(plan.encoded) for plan in plans] == plans
