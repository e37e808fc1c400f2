"""A body within its interceptors, ``def`` and ``async def`` in any order, from each kind of thread that calls one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import pytest

from stageflow_durable import StageOutput
from stageflow_durable.engine import loop
from stageflow_durable.engine.body import Called
from stageflow_durable.engine.chain import Chain
from stageflow_durable.engine.interrupt import Interruption, StageTimeout, TakenOver
from stageflow_durable.engine.services import own_context
from stageflow_durable.errors import NotAllowedInStage
from tests.unit.engine.test_loop import elsewhere as _elsewhere
from tests.unit.engine.test_loop import here as _here
from tests.unit.engine.test_loop import within as _within

Call = Callable[..., Called]
seen: ContextVar[str] = ContextVar("seen", default="")


@dataclass(frozen=True)
class Ctx:
    run_id: str = "r"
    stage: str = "s"
    note: str = ""


class Wraps:
    """A ``def``."""

    priority = 1

    def __init__(self, name: str, log: list[str] | None = None, fails: BaseException | None = None) -> None:
        self.name = name
        self.log = log if log is not None else []
        self.fails = fails

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        self.log.append(f"{self.name} before")
        try:
            output: StageOutput = call_next(replace(ctx, note=ctx.note + self.name))
        except BaseException as error:
            self.log.append(f"{self.name} saw {type(error).__name__}")
            raise
        self.log.append(f"{self.name} after")
        if self.fails is not None:
            raise self.fails
        return output


class WrapsAsync(Wraps):
    """The same as an ``async def``."""

    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        self.log.append(f"{self.name} before")
        await asyncio.sleep(0)
        try:
            output: StageOutput = await call_next(replace(ctx, note=ctx.note + self.name))
        except BaseException as error:
            self.log.append(f"{self.name} saw {type(error).__name__}")
            raise
        self.log.append(f"{self.name} after")
        if self.fails is not None:
            raise self.fails
        return output


def chained(links: Sequence[Any], runner: Any, timeout: float | None = None) -> Called:
    return Chain(links).call(runner, Ctx(), timeout, own_context("r"))


@pytest.fixture(params=["here", "elsewhere", "within"])
def call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Call:
    """From the main thread, as a prefork child calls bodies; from a pool's thread; from within a running loop."""
    way = {"here": _here, "elsewhere": _elsewhere, "within": _within}[request.param]

    def called(links: Sequence[Any], runner: Any, timeout: float | None = None) -> Called:
        monkeypatch.setattr("stageflow_durable.engine.body.call", lambda *_given: chained(links, runner, timeout))
        return way(runner, timeout)

    return called


def pays(ctx: Any) -> str:
    return f"paid {ctx.note}"


async def pays_async(ctx: Any) -> str:
    await asyncio.sleep(0)
    return pays(ctx)


def raises(_ctx: Any) -> None:
    raise ValueError("no")


async def raises_async(_ctx: Any) -> None:
    raise ValueError("no")


KINDS = ["".join(kinds) for number in (1, 2, 3) for kinds in itertools.product("sa", repeat=number)]


def links(kinds: str, log: list[str] | None = None) -> list[Any]:
    """``s`` for a ``def``, ``a`` for an ``async def``; they are named by their place."""
    return [(Wraps if kind == "s" else WrapsAsync)(str(place), log) for place, kind in enumerate(kinds)]


BODIES = pytest.mark.parametrize(
    ("body", "failing"), [(pays, raises), (pays_async, raises_async)], ids=["def", "async"]
)


@BODIES
@pytest.mark.parametrize("kinds", KINDS)
def test_they_nest_in_order_whatever_kind_each_is(call: Call, kinds: str, body: Any, failing: Any) -> None:
    log: list[str] = []
    places = [str(place) for place in range(len(kinds))]
    assert call(links(kinds, log), body) == Called(StageOutput.ok("paid " + "".join(places)))
    assert log == [*(f"{one} before" for one in places), *(f"{one} after" for one in reversed(places))]


@BODIES
@pytest.mark.parametrize("kinds", KINDS)
def test_what_the_body_raises_goes_through_each_of_them(call: Call, kinds: str, body: Any, failing: Any) -> None:
    log: list[str] = []
    called = call(links(kinds, log), failing)
    places = [str(place) for place in range(len(kinds))]
    assert (repr(called.error), called.called, called.raised) == ("ValueError('no')", True, True)
    assert log == [*(f"{one} before" for one in places), *(f"{one} saw ValueError" for one in reversed(places))]


@BODIES
@pytest.mark.parametrize("kind", [Wraps, WrapsAsync])
def test_what_one_raises_after_the_body_is_the_outcome_and_the_body_did_not_raise(
    call: Call, kind: Any, body: Any, failing: Any
) -> None:
    called = call([kind("x", fails=KeyError("after"))], body)
    assert (repr(called.error), called.called, called.raised) == ("KeyError('after')", True, False)


class Answers:
    name, priority = "answers", 1

    def around(self, _ctx: Any, _call_next: Any) -> StageOutput:
        return StageOutput.ok("mine")


class AnswersAsync(Answers):
    async def around(self, _ctx: Any, _call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        return StageOutput.ok("mine")


@BODIES
@pytest.mark.parametrize("kind", [Answers, AnswersAsync])
@pytest.mark.parametrize("outer", [Wraps, WrapsAsync])
def test_one_that_answers_keeps_the_body_from_being_called(
    call: Call, kind: Any, outer: Any, body: Any, failing: Any
) -> None:
    assert call([outer("0"), kind()], failing) == Called(StageOutput.ok("mine"), called=False)


class Twice(Answers):
    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        call_next(ctx)
        output: StageOutput = call_next(ctx)
        return output


class TwiceAsync(Answers):
    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        await call_next(ctx)
        output: StageOutput = await call_next(ctx)
        return output


@BODIES
@pytest.mark.parametrize("kind", [Twice, TwiceAsync])
def test_the_body_is_called_once_an_attempt(call: Call, kind: Any, body: Any, failing: Any) -> None:
    ran: list[int] = []

    def counted(ctx: Any) -> Any:
        ran.append(1)
        return body(ctx)

    called = call([kind()], counted)
    assert isinstance(called.error, NotAllowedInStage)
    assert "an attempt is one call of the body" in str(called.error)
    assert ran == [1]


def test_a_call_next_that_was_kept_calls_nothing_later(call: Call) -> None:
    kept: list[Any] = []

    class Keeps(Answers):
        def around(self, ctx: Any, call_next: Any) -> StageOutput:
            kept.append(call_next)
            return StageOutput.ok()

    assert not call([Keeps()], pays).called
    with pytest.raises(NotAllowedInStage, match="the interceptor has returned"):
        kept[0](Ctx())


@pytest.mark.parametrize("answer", [None, "paid", 7])
def test_what_is_no_output_is_refused_by_the_interceptors_name(call: Call, answer: Any) -> None:
    class Forgets(Answers):
        name = "forgets"

        def around(self, ctx: Any, call_next: Any) -> Any:
            call_next(ctx)
            return answer

    called = call([Forgets()], pays)
    assert isinstance(called.error, TypeError)
    assert "interceptor forgets: around() returned" in str(called.error)
    assert called.called


def test_a_def_may_hand_on_what_has_to_be_awaited(call: Call) -> None:
    class Hands(Answers):
        def around(self, ctx: Any, call_next: Any) -> Any:
            return WrapsAsync("0").around(ctx, pays_next)

    async def pays_next(_ctx: Any) -> StageOutput:
        return StageOutput.ok("awaited")

    assert call([Hands()], pays).value == StageOutput.ok("awaited")


def test_what_a_def_hands_on_may_call_the_body_where_it_is_awaited(call: Call) -> None:
    class Hands(Wraps):
        def around(self, ctx: Any, call_next: Any) -> Any:
            async def rest() -> StageOutput:
                output: StageOutput = call_next(ctx)
                return output

            return rest()

    called = call([Hands("h")], lambda _ctx: 1)
    assert (called.error, called.value) == (None, StageOutput.ok(1))


def test_the_body_is_not_called_in_a_thread_of_an_interceptor(call: Call) -> None:
    refused: list[BaseException] = []

    class Apart(Wraps):
        def elsewhere(self, ctx: Any, call_next: Any) -> None:
            try:
                call_next(ctx)
            except NotAllowedInStage as error:
                refused.append(error)

        def around(self, ctx: Any, call_next: Any) -> Any:
            thread = threading.Thread(target=self.elsewhere, args=(ctx, call_next))
            thread.start()
            thread.join()
            return super().around(ctx, call_next)

    called = call([Apart("p")], lambda _ctx: 1)
    assert (called.error, called.value, len(refused)) == (None, StageOutput.ok(1), 1)


def test_a_def_body_that_answers_a_coroutine_is_awaited(call: Call) -> None:
    def hands(ctx: Any) -> Any:
        return pays_async(ctx)

    assert call(links("sa"), hands).value == StageOutput.ok("paid 01")
    assert call(links("as"), hands).value == StageOutput.ok("paid 01")


# --- where they run ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", ["s", "a", "as", "sa", "asa"])
def test_a_def_body_runs_in_the_thread_that_carries_the_run_and_in_no_loop_of_ours(call: Call, kinds: str) -> None:
    where: list[Any] = []

    class Notes(Wraps):
        def around(self, ctx: Any, call_next: Any) -> StageOutput:
            where.append((threading.get_ident(), asyncio._get_running_loop()))
            return super().around(ctx, call_next)

    def body(_ctx: Any) -> None:
        where.append((threading.get_ident(), asyncio._get_running_loop()))

    assert call([Notes("x"), *links(kinds)], body).error is None
    assert where[0] == where[1]


@BODIES
@pytest.mark.parametrize("kinds", KINDS)
def test_context_variables_are_seen_further_in_and_afterwards(call: Call, kinds: str, body: Any, failing: Any) -> None:
    told: list[str] = []

    class Binds(Wraps):
        def around(self, ctx: Any, call_next: Any) -> StageOutput:
            seen.set(seen.get() + self.name)
            output: StageOutput = call_next(ctx)
            told.append(seen.get())
            return output

    class BindsAsync(WrapsAsync):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            seen.set(seen.get() + self.name)
            output: StageOutput = await call_next(ctx)
            told.append(seen.get())
            return output

    def sets(_ctx: Any) -> str:
        seen.set(seen.get() + "!")
        return seen.get()

    async def sets_async(ctx: Any) -> str:
        return sets(ctx)

    made = [(Binds if kind == "s" else BindsAsync)(str(place)) for place, kind in enumerate(kinds)]
    all_set = "".join(str(place) for place in range(len(kinds))) + "!"
    assert call(made, sets if body is pays else sets_async).value == StageOutput.ok(all_set)
    assert told == [all_set] * len(kinds)
    assert seen.get() == ""


def test_a_body_may_run_a_loop_of_its_own_within_an_async_interceptor() -> None:
    async def inner() -> int:
        return 7

    assert chained(links("a"), lambda _ctx: asyncio.run(inner())).value == StageOutput.ok(7)


# --- time -------------------------------------------------------------------------------------------------------------


def hangs(_ctx: Any) -> None:
    threading.Event().wait(30)


async def hangs_async(_ctx: Any) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize("kinds", KINDS)
@pytest.mark.parametrize("body", [hangs, hangs_async])
def test_the_timeout_bounds_the_body_and_each_of_them_sees_the_end(kinds: str, body: Any) -> None:
    log: list[str] = []
    began = time.monotonic()
    called = chained(links(kinds, log), body, 0.2)
    assert time.monotonic() - began < 3
    assert isinstance(called.error, StageTimeout)
    assert str(called.error) == "it took longer than its timeout of 0.2 s"
    assert (called.called, called.raised) == (True, True)
    ends = [line.split()[0] for line in log if "saw" in line]
    assert ends == [str(place) for place in reversed(range(len(kinds)))]


@pytest.mark.parametrize("kinds", [kinds for kinds in KINDS if len(kinds) < 3])
def test_in_a_pools_thread_an_async_body_is_bounded_too(kinds: str) -> None:
    log: list[str] = []
    called: list[Called] = []
    thread = threading.Thread(target=lambda: called.append(chained(links(kinds, log), hangs_async, 0.2)))
    thread.start()
    thread.join(20)
    assert isinstance(called[0].error, StageTimeout)
    assert len([line for line in log if "saw" in line]) == len(kinds)


class Slow(Wraps):
    """Takes its time before it calls."""

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        threading.Event().wait(30)
        return super().around(ctx, call_next)


class SlowAsync(WrapsAsync):
    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        await asyncio.sleep(30)
        return await super().around(ctx, call_next)


@pytest.mark.parametrize("slow", [Slow, SlowAsync])
@pytest.mark.parametrize("outer", ["", "s", "a"])
@pytest.mark.parametrize("body", [pays, pays_async])
def test_the_timeout_bounds_what_wraps_the_body_and_then_the_body_was_not_called(
    slow: Any, outer: str, body: Any
) -> None:
    called = chained([*links(outer), slow("slow")], body, 0.2)
    assert isinstance(called.error, StageTimeout)
    assert (called.called, called.raised) == (False, False)


class Lingers(Wraps):
    """Takes its time after it has called."""

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        output = super().around(ctx, call_next)
        threading.Event().wait(5)
        return output


class LingersAsync(WrapsAsync):
    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        output = await super().around(ctx, call_next)
        await asyncio.sleep(5)
        return output


@pytest.mark.parametrize("kind", [Lingers, LingersAsync])
@pytest.mark.parametrize("body", [pays, pays_async])
def test_the_timeout_bounds_what_wraps_the_body_afterwards_too(kind: Any, body: Any) -> None:
    began = time.monotonic()
    called = chained([kind("x")], body, 0.3)
    assert isinstance(called.error, StageTimeout)
    assert (called.called, called.raised) == (True, False)
    assert time.monotonic() - began < 3


class Swallows(Wraps):
    """Says that all is well, whatever happens."""

    def around(self, ctx: Any, call_next: Any) -> StageOutput:
        try:
            return super().around(ctx, call_next)
        except BaseException:  # noqa: BLE001  # that is the mistake
            return StageOutput.ok("all is well")


class SwallowsAsync(WrapsAsync):
    """The same as an ``async def``."""

    async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
        try:
            return await super().around(ctx, call_next)
        except BaseException:  # noqa: BLE001  # that is the mistake
            return StageOutput.ok("all is well")


@pytest.mark.parametrize("kind", [Swallows, SwallowsAsync])
@pytest.mark.parametrize("body", [hangs, hangs_async])
def test_who_swallows_the_timeout_is_late_all_the_same(kind: Any, body: Any) -> None:
    called = chained([kind("x")], body, 0.2)
    assert isinstance(called.error, StageTimeout)


def test_an_interceptors_own_bound_ends_an_async_body() -> None:
    class Hurries(Answers):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            try:
                async with asyncio.timeout(0.05):
                    output: StageOutput = await call_next(ctx)
                    return output
            except TimeoutError:
                return StageOutput.retry("slow")

    called = chained([Hurries()], hangs_async)
    assert (called.value.kind, called.raised) == ("retry", True)


def test_what_is_around_a_def_body_does_not_end_before_it() -> None:
    order: list[str] = []

    class Hurries(Answers):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            try:
                async with asyncio.timeout(0.05):
                    output: StageOutput = await call_next(ctx)
                    return output
            finally:
                order.append("around")

    def body(_ctx: Any) -> None:
        threading.Event().wait(0.3)
        order.append("body")

    called: list[Called] = []
    thread = threading.Thread(target=lambda: called.append(chained([Hurries()], body)))  # where the loop goes on
    thread.start()
    thread.join(20)
    assert order == ["body", "around"]
    assert isinstance(called[0].error, TimeoutError)


def test_a_body_that_nobody_waits_for_is_not_begun(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    class Drops(Answers):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            self.task = asyncio.create_task(call_next(ctx))
            return StageOutput.ok("early")

    caplog.set_level(logging.WARNING)
    called = call([Drops()], hangs_async)
    assert called.value == StageOutput.ok("early")
    assert "left behind 1 task" in caplog.text


def test_a_task_of_an_async_interceptor_is_ended_with_it(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    class Leaves(WrapsAsync):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            output = await super().around(ctx, call_next)
            self.task = asyncio.create_task(asyncio.sleep(30))
            return output

    caplog.set_level(logging.WARNING)
    assert call([Leaves("x"), Wraps("y")], pays_async).error is None
    assert "left behind 1 task, cancelled (sleep)" in caplog.text


def test_the_loop_is_the_one_of_all_bodies(call: Call) -> None:
    loops: list[Any] = []

    class Notes(WrapsAsync):
        async def around(self, ctx: Any, call_next: Any) -> StageOutput:  # type: ignore[override]  # of another kind
            loops.append(asyncio.get_running_loop())
            return await super().around(ctx, call_next)

    async def body(_ctx: Any) -> None:
        loops.append(asyncio.get_running_loop())

    assert call([Notes("0"), Wraps("1")], body).error is None
    assert loops[0] is loops[1]
    assert not loops[0].is_closed()
    assert loop._fitting() is not None


@pytest.mark.parametrize("kinds", [kinds for kinds in KINDS if len(kinds) < 3])
@pytest.mark.parametrize("body", [hangs, hangs_async])
def test_once_the_work_was_taken_over_the_body_ends_and_then_each_of_them(kinds: str, body: Any) -> None:
    log: list[str] = []
    interruption = Interruption()
    threading.Timer(0.2, interruption.taken_over).start()
    began = time.monotonic()
    with interruption.of(ends_with_lease=False):
        called = chained(links(kinds, log), body)
    assert isinstance(called.error, TakenOver | asyncio.CancelledError)
    assert time.monotonic() - began < 5
    ends = [line.split()[0] for line in log if "saw" in line]
    assert ends == [str(place) for place in reversed(range(len(kinds)))]
