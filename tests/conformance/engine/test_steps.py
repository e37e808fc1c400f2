"""Saved steps: what a body has done is saved while it goes on, and no later attempt does it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, TransientError
from stageflow_durable.engine.interrupt import TakenOver
from stageflow_durable.errors import StageCancelled, StoreUnavailable
from stageflow_durable.model.status import ParkReason
from stageflow_durable.state.store import SqlStore
from stageflow_durable.testing import InProcessEngine
from tests.conformance.engine.acts import DIES, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.items import item_of, items_for, over

WHO: dict[str, Any] = {"reason": "because", "actor": "ops"}


class Remote:
    """Somebody else's system: what it was asked for, and what it did, once for each key."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.done: dict[str, str] = {}

    def do(self, what: str, idempotency_key: str) -> str:
        self.asked.append(what)
        return self.done.setdefault(idempotency_key, f"{what} done")

    async def ado(self, what: str, idempotency_key: str) -> str:
        await asyncio.sleep(0)
        return self.do(what, idempotency_key)


@pytest.fixture
def remote() -> Remote:
    return Remote()


def saved(engine: InProcessEngine, run_id: str, stage: str = "a") -> list[tuple[int, str, int]]:
    """The rows: number, name and the attempt that wrote it."""
    return [(row.n, row.name, row.attempt) for row in engine.store.calls(run_id, stage)]


def problems(engine: InProcessEngine) -> list[str]:
    return [problem for checked in engine.store.audit(None, {}) for problem in checked.problems]


def test_a_later_attempt_gets_what_was_saved(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a b"))

    def works(ctx: Any) -> list[Any]:
        done = [ctx.step("send", remote.do, what) for what in ("x", "y")]
        if ctx.attempt == 1:
            raise TransientError("later")
        return [*done, ctx.step("send", remote.do, "z")]

    acts.play("a", works, works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == ["x done", "y done", "z done"]
    assert remote.asked == ["x", "y", "z"]
    assert saved(engine, handle.run_id) == [(1, "send", 1), (2, "send", 1), (3, "send", 2)]
    told = [event.data for event in handle.history() if event.type == "stage.step_saved"]
    assert [(data["step"], data["number"]) for data in told] == [("send", 1), ("send", 2), ("send", 3)]
    shown = handle.describe().stage("a").steps
    assert [(step.name, step.result, step.saved_at is None) for step in shown] == [
        ("send", f"{what} done", False) for what in "xyz"
    ]
    assert problems(engine) == []


def in_a_row(ctx: Any, remote: Remote) -> list[Any]:
    return [ctx.step("send", remote.do, what) for what in ("x", "y", "x")]


def test_a_process_that_dies_anywhere_repeats_nothing_that_was_saved(make_engine: MakeEngine) -> None:
    remote = Remote()
    pipeline = Pipeline[Any, Any]("p").stage("a", lambda ctx: in_a_row(ctx, remote)).stage("b", lambda _ctx: None)
    dies_everywhere(make_engine(pipeline), remote)


def dies_everywhere(engine: InProcessEngine, remote: Remote) -> None:
    """Play the pipeline ``p`` once for each point at which its worker can die."""
    start = len(engine.faults.trace)
    engine.enqueue("p", {})
    engine.drain()
    story = engine.faults.trace[start:]
    for place, point in enumerate(story):
        if point.call not in ("begin", "save_call", "succeed"):
            continue
        remote.asked.clear()
        remote.done.clear()
        handle = engine.enqueue("p", {})
        engine.faults.at(point.when, point.call, number=story[: place + 1].count(point))
        engine.drain()
        engine.faults.clear()
        assert handle.outputs()["a"] == ["x done", "y done", "x done"]
        assert len(remote.done) == 3, point  # one effect each, by its key
        # What was done and not saved is done again, under its key: at most one.
        again = Counter(remote.asked) - Counter({"x": 2, "y": 1})
        assert again.total() == (point == ("before", "save_call")), point
    assert problems(engine) == []


def test_a_zombie_saves_nothing(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    """An owner that was paused after the effect, and taken over, is told so when it saves."""
    engine = make_engine(acts.line("a b"))
    zombie = engine.crew[0]
    seen: list[str] = []

    contexts = acts.contexts

    def works(ctx: Any) -> Any:
        try:
            first = ctx.step("send", remote.do, "x")
            return [first, ctx.step("send", remote.do, "y")]
        except BaseException as error:
            seen.append(type(error).__name__)
            if ctx is contexts[0]:
                with pytest.raises(TakenOver, match="step 'send' does not begin"):
                    ctx.step("send", remote.do, "whatever the paused one thinks of")
            raise

    def takes_over() -> None:
        engine.clock.advance(60)
        engine.sweep()
        engine.step(engine.hired())

    acts.play("a", works, works)
    handle = engine.enqueue("line", {})
    engine.faults.meanwhile("before", "save_call", takes_over)
    engine.step(zombie)
    engine.drain()
    assert seen == ["TakenOver"]
    assert remote.asked == ["x", "x", "y"] and len(remote.done) == 2
    assert saved(engine, handle.run_id) == [(1, "send", 2), (2, "send", 2)]
    assert handle.outputs()["a"] == ["x done", "y done"]
    assert problems(engine) == []


def test_nor_does_a_zombie_in_a_coroutine(make_engine: MakeEngine) -> None:
    """The one that takes over has a key, which finds what was saved in the place of the paused one."""
    remote, seen = Remote(), list[str]()

    async def works(ctx: Any) -> Any:
        try:
            return [await ctx.astep("send", remote.ado, what, key=what) for what in ("x", "y")]
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", works))
    zombie = engine.crew[0]

    def takes_over() -> None:
        engine.clock.advance(60)
        engine.sweep()
        engine.step(engine.hired())

    handle = engine.enqueue("p", {})
    engine.faults.meanwhile("before", "save_call", takes_over, number=2)
    engine.step(zombie)
    engine.drain()
    assert seen == ["TakenOver"]
    assert remote.asked == ["x", "y", "y"] and len(remote.done) == 2
    assert saved(engine, handle.run_id) == [(1, "send", 1), (2, "send", 2)]
    assert problems(engine) == []


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_saving_whose_answer_is_lost_is_made_sure_of(
    make_engine: MakeEngine, acts: Acts, remote: Remote, when: Any, number: int
) -> None:
    engine = make_engine(acts.line("a"))
    acts.play("a", lambda ctx: in_a_row(ctx, remote))
    handle = engine.enqueue("line", {})
    engine.faults.at(when, "save_call", number=number, error=StoreUnavailable("the connection is gone"))
    engine.drain()
    assert remote.asked == ["x", "y", "x"]
    assert [(n, attempt) for n, _name, attempt in saved(engine, handle.run_id)] == [(1, 1), (2, 1), (3, 1)]
    assert problems(engine) == []


def test_while_the_database_stays_away_the_step_fails_and_is_known_when_it_is_back(
    make_engine: MakeEngine, acts: Acts, remote: Remote
) -> None:
    engine = make_engine(acts.line("a"))
    away = StoreUnavailable("away")

    def works(ctx: Any) -> Any:
        try:
            ctx.step("send", remote.do, "x")
        except StoreUnavailable:
            engine.faults.clear()
        return ctx.step("send", remote.do, "x")  # the same one: the first may have been written

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.faults.at("after", "save_call", error=away)
    for number in range(1, 200):
        engine.faults.at("before", "save_call", number=number + 1, error=away)
    engine.drain()
    assert handle.outputs()["a"] == "x done"
    assert remote.asked == ["x"]
    assert saved(engine, handle.run_id) == [(1, "send", 1)]


def test_a_run_that_stops_begins_no_step(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))

    def stops(run_id: str) -> None:
        engine.cancel(run_id, **WHO)

    def works(ctx: Any) -> None:
        ctx.step("send", stops, ctx.run_id)
        with pytest.raises(StageCancelled, match="step 'send' does not begin"):
            ctx.step("send", remote.do, "x")
        raise StageCancelled("so be it")

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert remote.asked == []
    assert saved(engine, handle.run_id) == [(1, "send", 1)]


@pytest.mark.parametrize("branches", [False, True])
def test_a_run_that_was_stopped_while_a_step_was_made_goes_no_further(
    make_engine: MakeEngine, acts: Acts, branches: bool
) -> None:
    engine = make_engine(acts.graph(a="", b="a", c="a") if branches else acts.line("a b"))

    def stops(run_id: str) -> None:
        engine.cancel(run_id, **WHO)

    acts.play("a", lambda ctx: ctx.step("send", stops, ctx.run_id))
    (name,) = engine.pipelines
    handle = engine.enqueue(name, {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED
    assert acts.log == ["a", "undo a ok"]


def test_a_stage_that_was_lost_and_settled_keeps_its_steps(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a", a={"on_unknown": "park"}))

    def dies(ctx: Any) -> None:
        in_a_row(ctx, remote)
        raise DIES

    acts.play("a", dies, lambda ctx: in_a_row(ctx, remote))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.describe().park_reason is ParkReason.UNKNOWN
    engine.settle(handle.run_id, "a", not_done=True, **WHO)
    engine.drain()
    assert handle.outputs()["a"] == ["x done", "y done", "x done"]
    assert remote.asked == ["x", "y", "x"]


def test_a_stage_that_gets_on_is_not_poison(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    """Lost processes are counted from the last step that was saved: a long stage outlives many deploys."""
    engine = make_engine(acts.line("a b"), max_recoveries=2)

    def one_more(ctx: Any) -> None:
        for number in range(len(remote.asked) + 1):
            ctx.step("send", remote.do, str(number))
        raise DIES

    acts.play("a", *[one_more] * 5, lambda _ctx: "done")
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == "done"
    assert remote.asked == ["0", "1", "2", "3", "4"]


def test_a_stage_that_dies_without_getting_on_is_poison_all_the_same(
    make_engine: MakeEngine, acts: Acts, remote: Remote
) -> None:
    engine = make_engine(acts.line("a"), max_recoveries=2)

    def dies(ctx: Any) -> None:
        ctx.step("send", remote.do, "x")
        raise DIES

    acts.play("a", *[dies] * 5)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.describe().park_reason is ParkReason.POISON
    assert remote.asked == ["x"]


def test_a_fork_does_its_steps_anew(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a b"))
    acts.play("b", *[lambda ctx: in_a_row(ctx, remote)] * 2)
    handle = engine.enqueue("line", {})
    engine.drain()
    fork = engine.fork(handle.run_id, from_stage="b", **WHO)
    engine.drain()
    assert remote.asked == ["x", "y", "x"] * 2
    assert len(remote.done) == 6
    assert len(engine.store.calls(fork.run_id, "b")) == 3
    assert problems(engine) == []


def test_steps_go_with_their_run(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))
    acts.play("a", lambda ctx: in_a_row(ctx, remote))
    handle = engine.enqueue("line", {})
    engine.drain()
    engine.advance(86_400 * 40)
    assert engine.prune(timedelta(days=30)) == 1
    assert engine.store.calls(handle.run_id, "a") == ()


def test_each_item_has_steps_of_its_own(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a b"))

    def works(ctx: Any) -> Any:
        done = ctx.step("send", remote.do, "x")
        if ctx.attempt == 1:
            raise TransientError("later")
        return [item_of(ctx), done, ctx.step("send", remote.do, "y")]

    acts.play("a", *[works] * 4)
    with items_for({("line", "a"): over("one", "two")}):
        handle = engine.enqueue("line", {})
        engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert sorted(remote.asked) == ["x", "x", "y", "y"] and len(remote.done) == 4
    assert [len(engine.store.calls(handle.run_id, "a", item)) for item in (0, 1, 2)] == [0, 2, 2]
    assert problems(engine) == []


def test_branches_save_steps_side_by_side(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.graph(a="", left="a", right="a", z="left right"), workers=2)

    def works(ctx: Any) -> Any:
        first = ctx.step("send", remote.do, f"{ctx.stage} 1")
        if ctx.stage == "left":
            engine.step(engine.crew[1])  # the other branch, meanwhile
        return [first, ctx.step("send", remote.do, f"{ctx.stage} 2")]

    acts.play("left", works)
    acts.play("right", works)
    handle = engine.enqueue("graph", {})
    engine.step(engine.crew[0])
    engine.step(engine.crew[0])
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED
    assert sorted(remote.asked) == ["left 1", "left 2", "right 1", "right 2"]
    assert problems(engine) == []


@pytest.mark.sql
@pytest.mark.parametrize("when", ["before", "within"])
def test_beside_the_session_it_is_refused(make_engine: MakeEngine, acts: Acts, when: str) -> None:
    """What the session writes is saved with the stage alone: a step that had written by it would be found saved by an
    attempt whose writes were rolled back.
    """
    engine = make_engine(acts.line("a"))

    def works(ctx: Any) -> None:
        if when == "before":
            ctx.session  # noqa: B018  # it is opened
        ctx.step("s", lambda: ctx.session and None)

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert "ctx.session is open" in str(run.error)
    assert saved(engine, handle.run_id) == []


@pytest.mark.sql
def test_the_session_may_follow_the_steps(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))

    def works(ctx: Any) -> list[str]:
        done = in_a_row(ctx, remote)
        ctx.session  # noqa: B018  # it is opened
        return done

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.SUCCEEDED


@pytest.mark.sql
def test_a_stage_without_steps_asks_for_none_and_a_step_takes_no_lock(
    way: tuple[str, bool], make_engine: MakeEngine, acts: Acts, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without steps no statement more; and a step, where it may be written at once, is one statement."""
    engine, asked = make_engine(acts.line("a b")), list[str]()

    def noted(name: str) -> None:
        real = getattr(SqlStore, name)

        def call(self: Any, *given: Any, **options: Any) -> Any:
            asked.append(name)
            return real(self, *given, **options)

        monkeypatch.setattr(SqlStore, name, call)

    for name in ("calls", "save_call", "_transact"):
        noted(name)
    acts.play("b", lambda ctx: in_a_row(ctx, remote))
    engine.enqueue("line", {})
    engine.work()
    seen = [name for name in asked if name != "_transact" or way[1]]
    assert seen == ["calls", *["save_call"] * 3]
