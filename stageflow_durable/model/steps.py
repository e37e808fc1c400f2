"""Saved steps, as the body of a stage asks for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

T = TypeVar("T")


class RunsSteps(Protocol):
    """What runs steps, and saves what they bring."""

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        given: tuple[Any, ...],
        options: dict[str, Any],
        *,
        key: str | None,
        as_type: Any,
    ) -> Any:
        """What the step brings or has brought; within a coroutine, what has to be awaited for it."""


class SavesSteps:
    """The part of a stage's context that saves steps."""

    __slots__ = ()
    services: Any

    @property
    def tools(self) -> Any:
        """The tools of the stage (``Pipeline.stage(tools=…)``): ``ctx.tools.call("search", query="x")``, in ``async
        def`` awaited, calls one and saves what it returned, as :meth:`step` does; ``ctx.tools.answer(message)`` makes
        the calls that a model's message asks for. See ``stageflow_durable.tools``.
        """
        return self.services.steps.tools(self)

    @overload
    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        as_type: type[T],
        **options: Any,
    ) -> T: ...

    @overload
    def step(
        self, name: str, function: Callable[..., Any], /, *args: Any, key: str | None = None, **options: Any
    ) -> Any: ...

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        as_type: Any = None,
        **options: Any,
    ) -> Any:
        """Call ``function(*args, **options)`` and save what it returns at once, in a transaction of its own: every
        later attempt of the stage, in whatever process, gets what was saved, and does not call it again.

        In ``async def`` it is awaited (``await ctx.step(…)``; :meth:`astep` says so to type checkers), and ``function``
        may be ``async def``; so may it be in ``def``.

        It is found again by ``key`` (1 to 255 characters; one key is one step of its stage), else by its name, its
        arguments and its number among those with both. Arguments are therefore what JSON can say; whatever else the
        function needs it has by itself. A parameter called ``idempotency_key`` is filled in, with a key that is the
        step's in every attempt: hand it to the remote system, because a process may die between the effect and the
        saving, and then the step is done again.

        The value comes back as it was saved: JSON's types and those that are saved as text (dates, decimals …), a model
        as a dict; with ``as_type`` as that type. What raises is not saved, and its error goes on.

        Raises StepMismatch: the key was saved with other arguments or by another step; UnsavableValue: the value cannot
        be saved, or is larger than ``max_payload_bytes``; StageCancelled: the run is stopping, and nothing new begins;
        NotAllowedInStage: within another step, beside ``ctx.session``, when the stage is over, or in a thread that does
        not have the stage's context (``asyncio.to_thread`` has it, and what is started by
        ``contextvars.copy_context().run``).
        """
        return self.services.steps.step(name, function, args, options, key=key, as_type=as_type)

    @overload
    async def astep(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        as_type: type[T],
        **options: Any,
    ) -> T: ...

    @overload
    async def astep(
        self, name: str, function: Callable[..., Any], /, *args: Any, key: str | None = None, **options: Any
    ) -> Any: ...

    async def astep(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        key: str | None = None,
        as_type: Any = None,
        **options: Any,
    ) -> Any:
        """:meth:`step`, for ``async def``."""
        return await self.services.steps.step(name, function, args, options, key=key, as_type=as_type)
