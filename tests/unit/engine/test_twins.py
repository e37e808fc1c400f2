"""A twin for async callers: the same call, in a thread."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from stageflow_durable.engine.twins import in_thread

CALLER: ContextVar[str] = ContextVar("CALLER", default="nobody")


class Counter:
    def add(self, number: int, *, twice: bool = False) -> tuple[int, int]:
        """Add."""
        if number < 0:
            raise ValueError("less than nothing")
        return number * (1 + twice), threading.get_ident()

    aadd = in_thread(add)

    def caller(self) -> str:
        return CALLER.get()

    acaller = in_thread(caller)


class Doubler(Counter):
    def add(self, number: int, *, twice: bool = True) -> tuple[int, int]:
        return super().add(number, twice=twice)


def test_it_passes_on_what_it_is_given_and_works_in_another_thread() -> None:
    number, thread = asyncio.run(Counter().aadd(3, twice=True))
    assert number == 6
    assert thread != threading.get_ident()


def test_it_raises_what_its_method_raises() -> None:
    with pytest.raises(ValueError, match="less than nothing"):
        asyncio.run(Counter().aadd(-1))


def test_a_subclass_that_overrides_the_method_has_its_own_twin() -> None:
    assert asyncio.run(Doubler().aadd(3))[0] == 6


def test_the_context_of_the_caller_goes_along() -> None:
    async def call() -> str:
        CALLER.set("Ada")
        return await Counter().acaller()

    assert asyncio.run(call()) == "Ada"


def test_it_is_named_and_documented_as_a_twin() -> None:
    assert (Counter.aadd.__name__, Counter.aadd.__qualname__) == ("aadd", "Counter.aadd")
    assert Counter.aadd.__doc__ == "Awaitable :meth:`add`, which runs in a thread.\n\nAdd."
