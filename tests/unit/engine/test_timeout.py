"""The bound around a body: it rings in the body and nowhere else, and is never left armed."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stageflow_durable import Pipeline, RetryPolicy, RunStatus
from stageflow_durable.engine import body, interrupt
from stageflow_durable.engine.interrupt import StageTimeout, bounded
from stageflow_durable.engine.services import own_context
from stageflow_durable.testing import engine_for_tests


@pytest.fixture(autouse=True)
def alarm() -> Iterator[Any]:
    """The handler that was there before, which has to be there afterwards, with no timer running."""
    before = signal.getsignal(signal.SIGALRM)
    yield before
    left, pending = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, 0)
    faulthandler.cancel_dump_traceback_later()
    assert (left, pending) == (before, (0.0, 0.0))


@pytest.mark.parametrize("seconds", [1e-9, 1e-6, 2e-5, 1e-4, 1e-3])
def test_however_early_it_rings_it_is_disarmed(seconds: float, alarm: Any) -> None:
    for _ in range(200):
        try:
            with bounded(seconds):
                pass
        except StageTimeout:
            pass
        assert signal.getsignal(signal.SIGALRM) == alarm


def test_a_timer_that_cannot_be_set_leaves_nothing_armed() -> None:
    with pytest.raises(OverflowError), bounded(1e300):
        pass


def test_a_body_whose_timer_cannot_be_set_was_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_given: Any, **_options: Any) -> None:
        raise OverflowError("out of range")

    monkeypatch.setattr(faulthandler, "dump_traceback_later", refuse)
    ran: list[Any] = []
    pipeline = Pipeline("p").stage("pay", ran.append, timeout=5, compensate=ran.append)
    with engine_for_tests([pipeline], retry=RetryPolicy(max_attempts=1)) as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        assert ran == []
        assert handle.status() is not RunStatus.COMPENSATION_FAILED
        assert "OverflowError" in str(handle.describe().error)


def test_what_swallows_the_exception_and_returns_is_late_all_the_same() -> None:
    with pytest.raises(StageTimeout), bounded(0.01), contextlib.suppress(BaseException):
        time.sleep(5)


def test_an_async_body_that_swallows_its_cancellation_and_returns_is_late_all_the_same() -> None:
    async def stubborn(_ctx: Any) -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return "late"

    called = body.call(stubborn, _Ctx(), 0.02, own_context("r"))
    assert isinstance(called.error, StageTimeout)


def test_an_async_body_that_blocks_its_loop_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "AGAIN_SECONDS", 0.1)

    async def blocks(_ctx: Any) -> None:
        time.sleep(5)  # noqa: ASYNC251  # that it blocks is the point

    began = time.monotonic()
    called = body.call(blocks, _Ctx(), 0.05, own_context("r"))
    assert isinstance(called.error, StageTimeout)
    assert time.monotonic() - began < 4


def test_an_async_body_that_cleans_up_after_its_timeout_is_not_interrupted_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(interrupt, "AGAIN_SECONDS", 0.02)
    tidied: list[bool] = []

    async def tidies(_ctx: Any) -> None:
        try:
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0.2)
            tidied.append(True)

    called = body.call(tidies, _Ctx(), 0.02, own_context("r"))
    assert isinstance(called.error, StageTimeout)
    assert tidied == [True]


class _Ctx:
    run_id, stage = "r", "s"
