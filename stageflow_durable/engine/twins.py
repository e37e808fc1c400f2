"""Twins for async callers: the same call in a thread, so that the event loop goes on. There is one implementation of
each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

S = TypeVar("S")
P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., object])


def in_thread(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """The ``a…`` twin of a method: it takes what the method takes, and returns and raises the same, awaited.

    Written below the method, as ``acancel = in_thread(cancel)``. A subclass that overrides the method has its own twin.
    """
    name = method.__name__

    @wraps(method)
    async def twin(self: S, /, *given: P.args, **options: P.kwargs) -> T:
        return await asyncio.to_thread(getattr(self, name), *given, **options)

    twin.__name__ = f"a{name}"
    twin.__qualname__ = method.__qualname__.removesuffix(name) + twin.__name__
    twin.__doc__ = f"Awaitable :meth:`{name}`, which runs in a thread.\n\n{method.__doc__}"
    return twin


def in_thread_or_transaction(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """:func:`in_thread` for a method that takes a ``session`` or ``connection``: with an async one it runs where that
    one's statements run, and what may be done before is done in a thread, by ``_before_joining``.
    """
    name, threaded = method.__name__, in_thread(method)

    @wraps(threaded)
    async def twin(self: S, /, *given: P.args, **options: P.kwargs) -> T:
        found = next((what for what in ("session", "connection") if hasattr(options.get(what), "run_sync")), None)
        if found is None:
            return await threaded(self, *given, **options)
        theirs: Any = options[found]
        owner: Any = self
        await asyncio.to_thread(owner._before_joining)  # noqa: SLF001  # of every class with such a method
        answer: T = await theirs.run_sync(lambda own: getattr(self, name)(*given, **{**options, found: own}))
        return answer

    return twin


def documented_as(method: Callable[..., object]) -> Callable[[F], F]:
    """For a twin that takes no thread while it waits: its documentation ends with the method's."""

    def document(twin: F) -> F:
        twin.__doc__ = f"{twin.__doc__}\n\n{method.__doc__}"
        return twin

    return document
