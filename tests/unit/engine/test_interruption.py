"""Ending a body from outside, as the heartbeat does once its work was taken over."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

import pytest

from stageflow_durable.engine import body
from stageflow_durable.engine.interrupt import Interruption, TakenOver

LONG = 20.0


def later(act: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(0.2, act)
    timer.start()
    return timer


def call(runner: Callable[[Any], object], timeout: float | None = None) -> body.Called:
    return body.call(runner, SimpleNamespace(run_id="R", stage="s"), timeout, copy_context())


def test_a_def_that_sleeps_is_interrupted_once_its_work_was_taken_over() -> None:
    interruption, began = Interruption(), time.monotonic()
    later(interruption.taken_over)
    with interruption.of(ends_with_lease=False):
        called = call(lambda _ctx: time.sleep(LONG))
    assert isinstance(called.error, TakenOver)
    assert str(called.error) == "its work was taken over"
    assert time.monotonic() - began < LONG / 2


def test_an_async_def_that_waits_is_cancelled_and_cleans_up() -> None:
    interruption, began, cleaned = Interruption(), time.monotonic(), []

    async def waits(_ctx: object) -> None:
        try:
            await asyncio.sleep(LONG)
        finally:
            cleaned.append(True)

    later(interruption.taken_over)
    with interruption.of(ends_with_lease=False):
        called = call(waits)
    assert isinstance(called.error, TakenOver | asyncio.CancelledError)
    assert cleaned == [True]
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("ends", [True, False])
def test_a_lost_lease_alone_ends_only_what_asked_for_it(*, ends: bool) -> None:
    interruption = Interruption()
    later(interruption.lease_lost)
    with interruption.of(ends_with_lease=ends):
        called = call(lambda _ctx: time.sleep(1.0))
    assert isinstance(called.error, TakenOver) == ends


def test_what_is_told_between_two_bodies_ends_neither() -> None:
    interruption = Interruption()
    with interruption.of(ends_with_lease=True):
        pass
    interruption.taken_over()
    with interruption.of(ends_with_lease=True):
        time.sleep(0.05)


def test_a_body_in_another_thread_goes_on_to_its_end() -> None:
    interruption = Interruption()

    def ride() -> str:
        with interruption.of(ends_with_lease=True):
            time.sleep(0.5)
        return "over"

    with ThreadPoolExecutor(1) as pool:
        riding = pool.submit(ride)
        later(interruption.taken_over)
        assert riding.result() == "over"


def test_an_async_def_with_a_timeout_is_cancelled_as_well() -> None:
    interruption, began = Interruption(), time.monotonic()
    later(interruption.taken_over)
    with interruption.of(ends_with_lease=False):
        called = call(lambda _ctx: asyncio.sleep(LONG), LONG)
    assert isinstance(called.error, TakenOver | asyncio.CancelledError)
    assert time.monotonic() - began < LONG / 2
