"""``async def`` bodies share one loop, whatever becomes of one of them; what they leave behind is ended and said."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from stageflow_durable import kept_between_stages
from stageflow_durable.engine import body, loop
from stageflow_durable.engine.interrupt import StageTimeout
from stageflow_durable.engine.services import own_context

Call = Callable[..., body.Called]


class Ctx:
    run_id, stage = "r", "s"


def here(runner: Any, timeout: float | None = None) -> body.Called:
    """From the main thread, as a prefork child calls it."""
    return body.call(runner, Ctx(), timeout, own_context("r"))


def elsewhere(runner: Any, timeout: float | None = None) -> body.Called:
    """From another thread, as a pool of threads calls it."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(here, runner, timeout).result(30)


def within(runner: Any, timeout: float | None = None) -> body.Called:
    """From a thread whose loop runs, as a test calls it that is ``async def`` itself."""

    async def test() -> body.Called:
        return here(runner, timeout)

    return asyncio.run(test())


@pytest.fixture(params=[here, elsewhere, within], ids=lambda one: one.__name__)
def call(request: pytest.FixtureRequest) -> Call:
    """A way of calling a body."""
    return request.param  # type: ignore[no-any-return]  # pytest gives what it was given


async def which(_ctx: Any) -> Any:
    return asyncio.get_running_loop()


async def slow(_ctx: Any) -> None:
    await asyncio.sleep(30)


@pytest.mark.parametrize(
    "end",
    [StageTimeout, SystemExit(3), KeyboardInterrupt(), GeneratorExit(), asyncio.CancelledError(), ValueError("x")],
    ids=lambda end: getattr(end, "__name__", type(end).__name__),
)
def test_the_loop_survives_whatever_ends_a_body(call: Call, end: Any) -> None:
    async def ends(_ctx: Any) -> None:
        raise end

    before = call(which).value
    called = call(slow, 0.05) if end is StageTimeout else call(ends)
    assert isinstance(called.error, end if isinstance(end, type) else type(end))
    assert call(which).value is before


@pytest.mark.parametrize("end", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_what_a_task_of_a_body_raises_is_its_awaiters(call: Call, end: BaseException) -> None:
    async def ends() -> None:
        raise end

    async def awaits(_ctx: Any) -> None:
        await asyncio.create_task(ends())

    assert call(awaits).error is end
    assert call(which).error is None


def test_all_threads_share_one_loop() -> None:
    gate: list[asyncio.Semaphore] = []

    async def limited(_ctx: Any) -> Any:
        if not gate:
            gate.append(asyncio.Semaphore(1))
        async with gate[0]:
            await asyncio.sleep(0.005)
        return asyncio.get_running_loop()

    with ThreadPoolExecutor(4) as pool:
        called = [future.result(30) for future in [pool.submit(here, limited) for _ in range(20)]]
    assert [one.error for one in called] == [None] * 20
    assert len({one.value for one in called}) == 1


def test_given_threads_that_come_together_when_there_is_no_loop_yet_then_one_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Slow:
        def __init__(self) -> None:
            time.sleep(0.05)
            made.append(self)
            self.loop = asyncio.new_event_loop()

    monkeypatch.setattr(loop, "_loops", {})
    with ThreadPoolExecutor(4) as pool:
        found = {future.result(30) for future in [pool.submit(loop._mine, Slow) for _ in range(4)]}
    assert [*found] == made
    made[0].loop.close()


def test_a_timeout_cancels_its_own_body_only() -> None:
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(here, slow, 0.05)

        async def other(_ctx: Any) -> str:
            await asyncio.sleep(0.3)
            return "done"

        good = pool.submit(here, other, 5)
        assert isinstance(late.result(30).error, StageTimeout)
        assert good.result(30).value == "done"


def test_given_a_thread_pool_when_a_body_swallows_its_cancellation_then_it_is_cancelled_again_and_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "GRACE_SECONDS", 0.05)
    monkeypatch.setattr(loop, "AGAIN_SECONDS", 0.02)
    swallowed: list[int] = []

    async def stubborn(_ctx: Any) -> None:
        while len(swallowed) < 3:
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                swallowed.append(1)

    assert isinstance(elsewhere(stubborn, 0.05).error, StageTimeout)
    assert "run r: stage s goes on after its timeout; it holds its thread until it ends" in caplog.text


def test_tasks_that_a_body_leaves_behind_are_cancelled_and_told_in_one_line(
    call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def leaves(_ctx: Any) -> str:
        for _ in range(3):
            task = asyncio.create_task(forever())
            await asyncio.sleep(0)
            assert not task.done()
        return "value"

    with caplog.at_level(logging.WARNING):
        assert call(leaves).value == "value"
    assert ended == ["cancelled"] * 3
    assert [record.getMessage() for record in caplog.records if record.name == "stageflow.body"] == [
        f"run r: stage s left behind 3 tasks, cancelled ({forever.__qualname__})"
    ]


def test_a_task_that_just_ends_is_not_told(call: Call, caplog: pytest.LogCaptureFixture) -> None:
    async def quick() -> None:
        return None

    async def leaves(_ctx: Any) -> None:
        _task = asyncio.create_task(quick())  # noqa: RUF006  # that nobody holds it is the point

    call(leaves)
    assert caplog.text == ""


def test_a_task_that_does_not_heed_its_cancellation_is_told_as_such(
    call: Call, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stageflow_durable.engine.leftovers.PATIENCE_SECONDS", 0.05)

    async def deaf() -> None:
        for _ in range(2):
            try:
                await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                continue

    async def leaves(_ctx: Any) -> None:
        _task = asyncio.create_task(deaf())  # noqa: RUF006  # as above
        await asyncio.sleep(0)

    call(leaves)
    assert "1 task, cancelled" in caplog.text
    assert "1 of them still at it" in caplog.text


def test_what_is_kept_between_stages_goes_on(call: Call) -> None:
    class Client:
        """One that answers through a task of its own."""

        def __init__(self) -> None:
            self.asked: asyncio.Queue[asyncio.Future[str]] = asyncio.Queue()
            self.reader = asyncio.create_task(self._read())

        async def _read(self) -> None:
            while True:
                (await self.asked.get()).set_result("answer")

        async def ask(self) -> str:
            answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            await self.asked.put(answer)
            return await answer

    clients: list[Client] = []

    async def asks(_ctx: Any) -> str:
        if not clients:
            with kept_between_stages():
                clients.append(Client())
        return await clients[0].ask()

    async def closes(_ctx: Any) -> None:
        clients[0].reader.cancel()
        await asyncio.wait([clients[0].reader])

    assert [call(asks, 5).value for _ in range(3)] == ["answer"] * 3
    call(slow, 0.05)
    assert call(asks, 5).value == "answer"
    call(closes)


def test_async_generators_are_closed_held_or_dropped(call: Call) -> None:
    closed: list[str] = []
    held: list[AsyncIterator[int]] = []

    async def counting(name: str) -> AsyncIterator[int]:
        try:
            for number in range(9):
                yield number
        finally:
            await asyncio.sleep(0)
            closed.append(name)

    async def leaves(_ctx: Any) -> None:
        async for _number in counting("dropped"):
            break
        held.append(counting("held"))
        await anext(held[0])
        async for _number in counting("exhausted"):
            pass

    call(leaves)
    assert sorted(closed) == ["dropped", "exhausted", "held"]


def test_given_a_timeout_when_a_thread_still_acts_for_the_body_then_the_attempt_is_not_over(call: Call) -> None:
    acted: list[float] = []

    def acts() -> None:
        time.sleep(0.4)
        acted.append(time.monotonic())

    async def hands_over(_ctx: Any) -> None:
        await asyncio.to_thread(acts)

    called = call(hands_over, 0.1)
    assert isinstance(called.error, StageTimeout)
    assert len(acted) == 1


def test_given_a_body_that_stops_its_loop_then_it_goes_on(call: Call) -> None:
    async def stops(_ctx: Any) -> str:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "done"

    assert call(stops).value == "done"


def test_a_function_that_returns_an_awaitable_is_awaited(call: Call) -> None:
    async def inner() -> str:
        return "awaited"

    assert call(lambda _ctx: inner()).value == "awaited"


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    before = here(which).value
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # in the child
        try:
            other = here(which).value is not before and here(which).error is None
            os.write(write, b"own" if other else b"shared")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"own"
    assert here(which).value is before
    os.close(read)
    os.close(write)


def test_a_body_that_calls_bodies_does_not_wait_for_itself() -> None:
    async def inner(_ctx: Any) -> str:
        return "inner"

    async def outer(_ctx: Any) -> Any:
        return here(inner).value

    assert here(outer).value == "inner"
    assert elsewhere(outer).value == "inner"


def test_no_thread_is_made_where_the_main_thread_calls() -> None:
    code = (
        "import asyncio, threading\n"
        "from tests.unit.engine.test_loop import here, which\n"
        "here(which); print(len(threading.enumerate()))\n"
    )
    import subprocess

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"
    assert threading.current_thread() is threading.main_thread()
