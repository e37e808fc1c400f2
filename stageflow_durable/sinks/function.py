"""A function of the application as a sink."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.callables import uncallable
from stageflow_durable.model.sinks import TOLD, RunEvent
from stageflow_durable.sinks.checked import check_kinds, check_name


class Function:
    """Calls a function with each :class:`RunEvent`; ``def`` or ``async def``. Nothing ends one that hangs: after a
    minute another process calls it with the same event, and so on.

    ``name``: by default the function's own, with its module.
    """

    def __init__(
        self, function: Callable[[RunEvent], Any], *, name: str | None = None, kinds: Sequence[str] = TOLD
    ) -> None:
        wrong = uncallable(function, "event")
        if wrong is not None:
            raise ConfigurationError(f"sinks: {wrong}")
        self.name = check_name(_name_of(function) if name is None else name)
        self.kinds = check_kinds(kinds)
        self._function = function

    def deliver(self, event: RunEvent) -> None:
        """Call the function, and wait for what it returns if that can be awaited."""
        answer = self._function(event)
        if inspect.isawaitable(answer):
            asyncio.run(_awaited(answer))


async def _awaited(answer: Awaitable[Any]) -> None:
    await answer


def _name_of(function: Any) -> str:
    name, module = getattr(function, "__qualname__", None), getattr(function, "__module__", None)
    if not isinstance(name, str) or "<" in name or not isinstance(module, str):
        raise ConfigurationError(
            f"sinks: {function!r} has no name that lasts, by which it goes on after a restart: "
            'give it one by stageflow_durable.sinks.Function(…, name="…")'
        )
    return f"{module}.{name}"
