"""What a coroutine leaves behind: tasks, async generators, threads. It is ended with the body, and said.

A task belongs to the body in whose context it was made. What a client needs between stages (its reader, its pool's
workers) is made within :func:`kept_between_stages`, and belongs to nobody.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any
from weakref import WeakSet

from stageflow_durable.retry.look import attribute, name_of

PATIENCE_SECONDS = 2.0
"""How long what was told to end may take."""

NAMED = 5
"""How many of what was left behind are named in the log."""

_whose: ContextVar[Leftovers | None] = ContextVar("stageflow_leftovers", default=None)
_MISSING: Any = object()


@contextmanager
def kept_between_stages() -> Iterator[None]:
    """Tasks that are started in this block go on when the stage is over: for a client that is kept by a stage and works
    through tasks of its own.

    What they run belongs to no run. Whoever starts them ends them.
    """
    token = _whose.set(None)
    try:
        yield
    finally:
        _whose.reset(token)


def inherit(context: Context) -> None:
    """Set here what was set in ``context``, a copy of this one that ran for it; whose what is made here is, stays."""
    for variable, value in context.items():
        if variable is not _whose and variable.get(_MISSING) is not value:
            variable.set(value)


def within_a_body() -> bool:
    """Whether a coroutine of a body calls this, within the loop."""
    return asyncio._get_running_loop() is not None and _whose.get() is not None  # noqa: SLF001  # the public one raises


class Leftovers:
    """What one body made and has not ended."""

    def __init__(self) -> None:
        self.tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self.closing: set[asyncio.Task[Any]] = set()
        self.generators: WeakSet[AsyncGenerator[Any, Any]] = WeakSet()
        self.threads: set[Future[Any]] = set()

    def adopt(self) -> None:
        """Take what is made in this context from now on."""
        _whose.set(self)

    async def end(self, *, wait_for_threads: bool) -> str | None:
        """End all of it; says what was left, or None. ``wait_for_threads``: until the last has ended, however long: the
        body was cut off, and they may still be acting for it.
        """
        if not (self.tasks or self.closing or self.generators or self.threads):
            return None
        _whose.set(None)  # what ends it is not left behind
        await asyncio.sleep(0)  # what ends by itself in this round
        said = [await self._end_tasks(), await self._end_generators(), await self._end_threads(wait_for_threads)]
        return "; ".join(text for text in said if text) or None

    async def _end_tasks(self) -> str:
        if self.closing:
            await asyncio.wait(self.closing, timeout=PATIENCE_SECONDS)
        left = [task for task in self.tasks if not task.done()]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=PATIENCE_SECONDS)
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # else asyncio says that nobody asked for it
        return _said(left, "task", "cancelled", [task for task in left if not task.done()], _name)

    async def _end_generators(self) -> str:
        left = [one for one in self.generators if one.ag_frame is not None]  # type: ignore[attr-defined]  # it has one
        closing = [asyncio.ensure_future(_closed(one)) for one in left]
        if closing:
            await asyncio.wait(closing, timeout=PATIENCE_SECONDS)
        stuck = [one for one, task in zip(left, closing, strict=True) if not _ended_well(task)]
        return _said(left, "async generator", "closed", stuck, _name)

    async def _end_threads(self, wait: bool) -> str:
        left = [one for one in tuple(self.threads) if not one.cancel()]
        if not left:
            return ""
        await asyncio.wait([asyncio.wrap_future(one) for one in left], timeout=None if wait else PATIENCE_SECONDS)
        return _said(left, "thread", "waited for", [one for one in left if not one.done()], lambda _one: "")


def _ended_well(task: asyncio.Task[Any]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


async def _closed(generator: AsyncGenerator[Any, Any]) -> None:
    await generator.aclose()


def _said(left: list[Any], what: str, became: str, stuck: list[Any], name: Callable[[Any], str]) -> str:
    if not left:
        return ""
    names = ", ".join(sorted({name(one) for one in left} - {""})[:NAMED])
    still = f", {len(stuck)} of them still at it" if stuck else ""
    plural = "" if len(left) == 1 else "s"
    return f"{len(left)} {what}{plural}, {became}{f' ({names})' if names else ''}{still}"


def _name(one: Any) -> str:
    code = one.get_coro() if isinstance(one, asyncio.Task) else one
    return str(attribute(code, "__qualname__") or name_of(type(code)))


class Watch:
    """Notes whose each task, generator and thread of one loop is."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = 0
        self._first, self._final = self._began, self._dropped
        self._hooks: Any = None
        loop.set_task_factory(_made)
        loop.set_default_executor(_Threads())

    def over_generators(self) -> None:
        """Notice async generators from now on, until the loop pauses; called within it."""
        now = sys.get_asyncgen_hooks()
        if now.firstiter is not self._first:
            self._hooks, self._thread = now, threading.get_ident()
            sys.set_asyncgen_hooks(self._first, self._final)

    def _began(self, generator: AsyncGenerator[Any, Any]) -> None:
        owner = _whose.get()
        if owner is not None:
            owner.generators.add(generator)
        if self._hooks.firstiter is not None:
            self._hooks.firstiter(generator)

    def _dropped(self, generator: AsyncGenerator[Any, Any]) -> None:
        """A generator that nobody holds any more, before its end: closed at once, while its body is still there."""
        owner = _whose.get()
        if owner is None or threading.get_ident() != self._thread or self._loop.is_closed():
            if self._hooks.finalizer is not None:
                self._hooks.finalizer(generator)
            return
        task = self._loop.create_task(_closed(generator), context=Context())
        owner.closing.add(task)
        task.add_done_callback(owner.closing.discard)


def _made(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(coro, loop=loop, **options)
    context: Context | None = options.get("context")
    owner = _whose.get() if context is None else context.get(_whose)
    if owner is not None:
        owner.tasks.add(task)
    return task


class _Threads(ThreadPoolExecutor):
    """The loop's threads, as ``asyncio.to_thread`` uses them."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="stageflow-async")

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        """As its base; a body's own call is noted."""
        future = super().submit(fn, *args, **options)
        owner = _whose.get()
        if owner is not None:
            owner.threads.add(future)
            future.add_done_callback(owner.threads.discard)
        return future
