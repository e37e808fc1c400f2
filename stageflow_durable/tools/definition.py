"""What a tool is: a function with a name, what it takes and gives, and how its calls are made and undone."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any, overload

from stageflow_durable.duration import SHORTEST_TIMEOUT, seconds_of
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.tools.call import ToolCall
from stageflow_durable.tools.schemas import Input, Signature, can_come_back

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def _is_name(given: object) -> bool:
    return isinstance(given, str) and _NAME.fullmatch(given) is not None


@dataclass(frozen=True)
class ToolDefinition:
    """A tool. Raises ConfigurationError for what cannot be one.

    ``handler``: ``def`` or ``async def``. Its parameters are the tool's arguments, by name; one called
    ``idempotency_key`` gets the key of the call, and one annotated as ``StageContext`` the stage's context.
    ``description``: what models are told; left out, the handler's docstring. ``input_schema``: a Pydantic model, which
    the handler then gets as its one argument, or a JSON schema as a dict; left out, it follows from the annotations.
    ``output_schema``: a type as which the result comes back; left out, the annotation of what the handler returns.

    ``timeout``: seconds or timedelta for one try of a call. ``retry``: how often, and when, a call that raised is tried
    again within the stage's attempt; left out, never: its error goes to the body. ``undo_handler``: takes a
    :class:`ToolCall` back, ``def`` or ``async def``: when its stage is undone, or by ``ToolRegistry.undo``.
    ``action_type``: what kind of action a call is, by which its undo finds the tool again; left out, the name.
    """

    name: str
    handler: Callable[..., Any]
    description: str | None = None
    input_schema: Any = field(default=None, hash=False)
    output_schema: Any = field(default=None, hash=False)
    timeout: float | timedelta | None = None
    retry: RetryPolicy | None = None
    undo_handler: Callable[[ToolCall], Any] | None = None
    action_type: str = ""

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise ConfigurationError(
                f"tool {self.name!r}: a name is 1 to 128 letters, digits, underscores, hyphens or dots"
            )
        for what, given in (("handler", self.handler), ("undo_handler", self.undo_handler)):
            if not callable(given) and (what == "handler" or given is not None):
                raise ConfigurationError(f"tool {self.name!r}: {what} {given!r} is no function")
        if not isinstance(self.retry, RetryPolicy | None):
            raise ConfigurationError(f"tool {self.name!r}: retry {self.retry!r} is not a RetryPolicy")
        if self.timeout is not None:
            try:
                object.__setattr__(self, "timeout", seconds_of(self.timeout, low=SHORTEST_TIMEOUT))
            except ValueError as error:
                raise ConfigurationError(f"tool {self.name!r}: timeout {error}") from None
        if self.description is None:
            object.__setattr__(self, "description", inspect.getdoc(self.handler) or "")
        object.__setattr__(self, "action_type", self.action_type or self.name)
        if not _is_name(self.action_type):
            raise ConfigurationError(f"tool {self.name!r}: action_type {self.action_type!r} is no name")
        self.input, self.signature  # noqa: B018  # what is wrong with them is told where the tool is declared
        can_come_back(self.name, self.as_type)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The handler itself: nothing is saved."""
        return self.handler(*args, **options)

    @cached_property
    def signature(self) -> Signature:
        """The handler's parameters."""
        return Signature(self.name, self.handler)

    @cached_property
    def input(self) -> Input:
        """What it takes."""
        return Input(self.name, self.signature, self.input_schema)

    @property
    def as_type(self) -> Any:
        """As what its result comes back; None: as it was saved."""
        declared = self.signature.returns if self.output_schema is None else self.output_schema
        return None if declared in (Any, None, type(None), dict, inspect.Parameter.empty) else declared

    @property
    def seconds(self) -> float | None:
        """The timeout in seconds."""
        return self.timeout  # type: ignore[return-value]  # made seconds where it was declared


@overload
def tool(handler: Callable[..., Any], /) -> ToolDefinition: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    input_schema: Any = None,
    output_schema: Any = None,
    timeout: float | timedelta | None = None,
    retry: RetryPolicy | None = None,
    undo_handler: Callable[[ToolCall], Any] | None = None,
    action_type: str = "",
) -> Callable[[Callable[..., Any]], ToolDefinition]: ...


def tool(handler: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a tool of a function: ``@tool``, or ``@tool(timeout=10)`` with what :class:`ToolDefinition` takes. Its name
    is the function's unless another is given. What it makes is called as the function was.
    """

    def made(function: Callable[..., Any]) -> ToolDefinition:
        return ToolDefinition(name or str(getattr(function, "__name__", "")), function, **options)

    return made if handler is None else made(handler)
