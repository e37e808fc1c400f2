"""Saved steps: which step is meant, what comes back, and what is refused. On the store in memory: what stores do is in
``tests/conformance/engine/test_steps.py``.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel

from stageflow_durable import PermanentError, Pipeline, RunStatus, StageOutput, TransientError
from stageflow_durable.errors import NotAllowedInStage, StepMismatch, StoreUnavailable, UnsavableValue
from stageflow_durable.model.status import ParkReason
from stageflow_durable.testing import InProcessEngine, engine_for_tests
from tests.conformance.engine.acts import DIES, Acts
from tests.conformance.engine.conftest import MakeEngine
from tests.conformance.engine.test_steps import Remote, dies_everywhere, problems, saved


@pytest.fixture
def acts() -> Acts:
    return Acts()


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    with ExitStack() as stack:

        def make(*pipelines: Pipeline[Any, Any], **options: Any) -> InProcessEngine:
            return stack.enter_context(
                engine_for_tests(pipelines, store="memory", audit_key="the audit key of these", **options)
            )

        yield make


def test_steps_are_found_by_name_and_arguments_not_by_their_place(
    make_engine: MakeEngine, acts: Acts, remote: Remote
) -> None:
    engine = make_engine(acts.line("a"))

    def forth(ctx: Any) -> None:
        for what in ("x", "y"):
            ctx.step("send", remote.do, what)
        raise DIES

    def back(ctx: Any) -> list[str]:
        return [ctx.step("send", remote.do, what) for what in ("new", "y", "x", "x")]

    acts.play("a", forth, back)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == ["new done", "y done", "x done", "x done"]
    assert remote.asked == ["x", "y", "new", "x"]


def test_a_key_is_one_step(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))
    refused: list[StepMismatch] = []

    def works(ctx: Any) -> list[Any]:
        twice = [ctx.step("send", remote.do, "x", key="k") for _time in range(2)]
        for name, what in (("send", "y"), ("mail", "x")):
            with pytest.raises(StepMismatch) as caught:
                ctx.step(name, remote.do, what, key="k")
            refused.append(caught.value)
        return twice

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == ["x done", "x done"]
    assert remote.asked == ["x"]
    assert [error.differs for error in refused] == ["arguments", "name"]
    assert "key 'k' was saved before with other arguments" in str(refused[0])
    assert "by step 'send'" in str(refused[1])


def test_a_mismatch_parks_the_run_for_a_person(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))

    def first(ctx: Any) -> None:
        ctx.step("send", remote.do, "x", key="k")
        raise TransientError("later")

    acts.play("a", first, lambda ctx: ctx.step("send", remote.do, "y", key="k"))
    handle = engine.enqueue("line", {})
    engine.drain()
    run = handle.describe()
    assert (run.status, run.park_reason) == (RunStatus.PARKED, ParkReason.BUG)
    assert str(run.error).startswith("StepMismatch: ")
    assert remote.asked == ["x"]


def test_of_threads_that_ask_for_one_key_one_makes_it(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))
    both = threading.Barrier(4)

    def works(ctx: Any) -> list[str]:
        def asks() -> Any:
            both.wait(5)
            return ctx.step("send", remote.do, "x", key="k")

        with ThreadPoolExecutor(4) as pool:
            contexts = [contextvars.copy_context() for _thread in range(4)]
            return [asked.result() for asked in [pool.submit(context.run, asks) for context in contexts]]

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == ["x done"] * 4
    assert remote.asked == ["x"]


def test_parallel_steps_are_saved_each_by_itself(make_engine: MakeEngine) -> None:
    remote = Remote()

    async def works(ctx: Any) -> Any:
        same = [ctx.astep("send", remote.ado, "k", key="k") for _time in range(3)]
        return await asyncio.gather(*(ctx.step("send", remote.ado, what) for what in "xyz"), *same)

    async def counts(ctx: Any) -> Any:
        if ctx.attempt == 1:
            await works(ctx)
            raise TransientError("later")
        return await works(ctx)

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", counts))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert handle.outputs()["a"] == ["x done", "y done", "z done", "k done", "k done", "k done"]
    assert sorted(remote.asked) == ["k", "x", "y", "z"]
    assert problems(engine) == []


def test_a_step_that_is_cancelled_is_made_by_who_waits_for_it(make_engine: MakeEngine) -> None:
    made: list[int] = []

    async def works(ctx: Any) -> Any:
        begun = asyncio.Event()

        async def slow() -> str:
            made.append(1)
            begun.set()
            if len(made) == 1:
                await asyncio.Event().wait()
            return "done"

        first = asyncio.ensure_future(ctx.astep("slow", slow, key="k"))
        await begun.wait()
        second = asyncio.ensure_future(ctx.astep("slow", slow, key="k"))
        await asyncio.sleep(0)
        first.cancel()
        return await asyncio.wait_for(second, 5)

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", works))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert handle.outputs()["a"] == "done"
    assert len(made) == 2


def test_what_raises_is_not_saved_and_the_next_try_has_its_key(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    keys: list[str] = []

    def flaky(idempotency_key: str) -> str:
        keys.append(idempotency_key)
        if len(keys) < 3:
            raise TransientError("busy")
        return "done"

    def works(ctx: Any) -> Any:
        try:
            return ctx.step("flaky", flaky)
        except TransientError:
            return ctx.step("flaky", flaky)

    acts.play("a", works, works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == "done"
    assert len(keys) == 3 and len(set(keys)) == 1
    assert saved(engine, handle.run_id) == [(1, "flaky", 2)]


def test_each_step_of_each_run_has_a_key_of_its_own(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a b"))
    keys: list[str] = []

    def noted(*, idempotency_key: str) -> None:
        keys.append(idempotency_key)

    def works(ctx: Any) -> None:
        for _time in range(2):
            ctx.step("one", noted)
        ctx.step("two", keys.append, ctx.idempotency_key)

    acts.play("a", works, works)
    acts.play("b", works, works)
    for _run in range(2):
        engine.enqueue("line", {})
        engine.drain()
    assert len(set(keys)) == 12
    assert all(key.isascii() and len(key) <= 80 for key in keys)


class Answer(BaseModel):
    text: str
    on: date


def test_values_come_back_as_they_were_saved_the_first_time_too(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    seen: list[Any] = []

    def works(ctx: Any) -> None:
        answer = Answer(text="yes", on=date(2026, 1, 2))
        seen.append(ctx.step("plain", lambda: answer))
        seen.append(ctx.step("typed", lambda: answer, as_type=Answer))
        seen.append(ctx.step("made", lambda: {"text": "no", "on": "2026-01-03"}, as_type=Answer))
        seen.append(ctx.step("falsy", lambda: None))
        if ctx.attempt == 1:
            raise TransientError("later")

    acts.play("a", works, works)
    engine.enqueue("line", {})
    engine.drain()
    first, second = seen[:4], seen[4:]
    assert first == second
    assert first[0] == {"text": "yes", "on": date(2026, 1, 2)}
    assert first[1:3] == [Answer(text="yes", on=date(2026, 1, 2)), Answer(text="no", on=date(2026, 1, 3))]
    assert first[3] is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda ctx: ctx.step("s", object), "result of step 's': object cannot be saved"),
        (lambda ctx: ctx.step("s", lambda: "x" * 2_000_000), "max_payload_bytes allows"),
        (lambda ctx: ctx.step("s", lambda: {"text": 1}, as_type=Answer), "what is no Answer cannot be saved"),
        (lambda ctx: ctx.step("s", str, object()), "arguments are what a step is known by"),
    ],
    ids=["unsavable", "large", "mistyped", "arguments"],
)
def test_what_cannot_be_saved_is_refused(make_engine: MakeEngine, acts: Acts, call: Any, said: str) -> None:
    engine = make_engine(acts.line("a"))

    def works(ctx: Any) -> str:
        with pytest.raises(UnsavableValue, match=said):
            call(ctx)
        return "refused"

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == "refused"
    assert saved(engine, handle.run_id) == []


def test_a_step_within_a_step_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    acts.play("a", lambda ctx: ctx.step("outer", lambda: ctx.step("inner", str)))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert "step 'inner' in stage a" in str(handle.describe().error)
    assert "it is asked for within step 'outer'" in str(handle.describe().error)


def test_from_a_thread_without_the_stages_context_it_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))

    def works(ctx: Any) -> str:
        with ThreadPoolExecutor(1) as pool, pytest.raises(NotAllowedInStage, match="does not have the stage's context"):
            pool.submit(ctx.step, "s", str).result()
        return "refused"

    acts.play("a", works)
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == "refused"


def test_when_the_stage_is_over_it_is_refused(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))
    kept: list[Any] = []
    acts.play("a", kept.append)
    engine.enqueue("line", {})
    engine.drain()
    with pytest.raises(NotAllowedInStage, match="the stage is over"):
        kept[0].step("s", str)


def test_steps_that_are_not_asked_for_again_are_reported(
    make_engine: MakeEngine, acts: Acts, remote: Remote, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine(acts.line("a"))

    def first(ctx: Any) -> None:
        ctx.step("send", remote.do, "at 12:01")
        raise TransientError("later")

    acts.play("a", first, lambda ctx: ctx.step("send", remote.do, "at 12:02"))
    engine.enqueue("line", {})
    engine.drain()
    assert "stage a did not ask for 1 of its saved steps (send)" in caplog.text


def test_a_callback_url_that_a_step_handed_out_counts(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a", a={"compensate": None}))

    def works(ctx: Any) -> Any:
        ctx.step("start", lambda: len(ctx.callback_url()))
        if ctx.attempt == 1:
            raise TransientError("later")
        return StageOutput.wait(timeout=60)

    acts.play("a", works, works)
    handle = engine.enqueue("line", {})
    engine.work()
    engine.advance(3600)
    engine.sweep()
    engine.work()
    assert "waits for" in handle.describe().waits[0].text or handle.describe().stage("a").waiting_for == "callback"


def test_a_permanent_error_of_a_step_fails_the_stage(make_engine: MakeEngine, acts: Acts) -> None:
    engine = make_engine(acts.line("a"))

    def refuses() -> None:
        raise PermanentError("no")

    acts.play("a", lambda ctx: ctx.step("s", refuses))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.status() is RunStatus.COMPENSATED


def test_in_a_coroutine_a_process_that_dies_anywhere_repeats_nothing_either(
    make_engine: MakeEngine, remote: Remote
) -> None:
    async def works(ctx: Any) -> list[Any]:
        return [await ctx.astep("send", remote.ado, what) for what in ("x", "y", "x")]

    dies_everywhere(make_engine(Pipeline[Any, Any]("p").stage("a", works).stage("b", lambda _ctx: None)), remote)


def test_a_def_may_have_async_steps(make_engine: MakeEngine, acts: Acts, remote: Remote) -> None:
    engine = make_engine(acts.line("a"))
    acts.play("a", lambda ctx: ctx.step("send", remote.ado, "x"))
    handle = engine.enqueue("line", {})
    engine.drain()
    assert handle.outputs()["a"] == "x done"


def test_a_stage_that_is_cut_off_within_a_step_is_tried_again(make_engine: MakeEngine) -> None:
    made: list[int] = []

    async def slow() -> str:
        made.append(1)
        await asyncio.sleep(60 if len(made) == 1 else 0)
        return "done"

    async def works(ctx: Any) -> Any:
        return await ctx.step("slow", slow)

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", works, timeout=0.05))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert handle.outputs()["a"] == "done"
    assert len(made) == 2


def test_a_number_that_was_not_heard_of_is_not_given_twice(make_engine: MakeEngine, remote: Remote) -> None:
    """Two steps side by side: the first is written, and its answer never comes; the second is numbered behind it."""
    both = threading.Barrier(2)

    def works(ctx: Any) -> list[str]:
        def asks(what: str) -> str:
            both.wait(5)
            try:
                return str(ctx.step("send", remote.do, what))
            except StoreUnavailable:
                return "away"

        with ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(contextvars.copy_context().run, asks, what) for what in "xy"]
            return sorted(one.result() for one in asked)

    engine = make_engine(Pipeline[Any, Any]("p").stage("a", works))
    for number in range(1, 60):
        engine.faults.at("after" if number == 1 else "before", "save_call", number=number, error=StoreUnavailable("x"))
    handle = engine.enqueue("p", {})
    engine.drain()
    assert "away" in handle.outputs()["a"]
    numbers = [row.n for row in engine.store.calls(handle.run_id, "a")]
    assert numbers == list(range(1, len(numbers) + 1))
