"""A store that is asked in a thread, so that an event loop does not wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


async def ask_in_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function``. A caller that is cancelled waits for the answer: a claim made meanwhile has to be released."""
    task = asyncio.ensure_future(asyncio.to_thread(function, *arguments))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
