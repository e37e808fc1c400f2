"""The tools of an application, by name."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from stageflow_durable.errors import ConfigurationError, NothingToUndo, UnknownTool
from stageflow_durable.tools.call import ToolCall
from stageflow_durable.tools.definition import ToolDefinition


class ToolRegistry:
    """Tools by name, for ``Pipeline.stage(tools=…)``. Two cannot have one name, nor one action type."""

    def __init__(self, tools: Iterable[ToolDefinition] = ()) -> None:
        self._by_name: dict[str, ToolDefinition] = {}
        self._by_action: dict[str, ToolDefinition] = {}
        for one in tools:
            self.register(one)

    def register(self, tool: ToolDefinition) -> ToolDefinition:
        """Add a tool; returns it. Raises ConfigurationError if there is one of its name or of its action type, or it is
        no :class:`ToolDefinition` (``@tool`` makes one of a function).
        """
        if not isinstance(tool, ToolDefinition):
            raise ConfigurationError(f"{tool!r} is no tool; make one by @tool, or as ToolDefinition(name, handler)")
        if tool.name in self._by_name:
            raise ConfigurationError(f"a tool {tool.name!r} is registered already; give one of them another name")
        other = self._by_action.get(tool.action_type)
        if other is not None:
            raise ConfigurationError(
                f"tool {tool.name!r}: tool {other.name!r} has action type {tool.action_type!r}; one undoes it"
            )
        self._by_name[tool.name] = self._by_action[tool.action_type] = tool
        return tool

    def register_tool(self, tool: ToolDefinition) -> ToolDefinition:
        """Deprecated: the former name of :meth:`register`."""
        warnings.warn(
            "ToolRegistry.register_tool() is now called register(); the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.register(tool)

    def __getitem__(self, name: str) -> ToolDefinition:
        """The tool of that name. Raises UnknownTool."""
        found = self._by_name.get(name)
        if found is None:
            raise UnknownTool(name, tuple(self._by_name))
        return found

    def of_action(self, action_type: str) -> ToolDefinition | None:
        """The tool of that action type."""
        return self._by_action.get(action_type)

    def __contains__(self, name: object) -> bool:
        """Whether there is a tool of that name."""
        return name in self._by_name

    def __iter__(self) -> Iterator[ToolDefinition]:
        """The tools, in the order in which they were registered."""
        return iter(self._by_name.values())

    def __len__(self) -> int:
        """How many there are."""
        return len(self._by_name)

    @property
    def can_undo(self) -> bool:
        """Whether a call of some tool can be undone."""
        return any(tool.undo_handler is not None for tool in self)

    # --- within a stage -----------------------------------------------------------------------------------------------

    def execute(self, ctx: Any, name: str, arguments: Any = None, *, key: str | None = None) -> Any:
        """Call a tool in the stage of ``ctx``, which has this registry: what ``ctx.tools.call`` does. In ``async def``
        it is awaited.
        """
        if ctx.tools.registry is not self:
            raise ConfigurationError(f"stage {ctx.stage!r} does not have this registry; give Pipeline.stage(tools=…)")
        return ctx.tools.call(name, {} if arguments is None else arguments, key=key)

    def undo(self, call: ToolCall) -> Any:
        """Undo a call, once, while the stage that made it is at work: one of ``ctx.tools.calls``, also of one that an
        earlier attempt made. In ``async def`` it is awaited. A call that was undone is not found again by a later
        attempt, which makes it anew.

        Raises NothingToUndo: its tool has no ``undo_handler``, or it was undone before.
        """
        if call.made_in is None or call.made_in.registry is not self:
            raise NothingToUndo(f"call {call.number} of {call.tool!r} was made with other tools; they undo it")
        return call.made_in.undo(call)

    # --- what models are told -----------------------------------------------------------------------------------------

    def openai(self) -> list[dict[str, Any]]:
        """The tools as OpenAI's ``chat.completions.create(tools=…)`` takes them."""
        return [
            {
                "type": "function",
                "function": {"name": one.name, "description": one.description, "parameters": one.input.schema},
            }
            for one in self
        ]

    def openai_responses(self) -> list[dict[str, Any]]:
        """The tools as OpenAI's ``responses.create(tools=…)`` takes them."""
        return [{"type": "function", **one["function"], "strict": False} for one in self.openai()]

    def anthropic(self) -> list[dict[str, Any]]:
        """The tools as Anthropic's ``messages.create(tools=…)`` takes them."""
        return [{"name": one.name, "description": one.description, "input_schema": one.input.schema} for one in self]

    def mcp(self) -> list[dict[str, Any]]:
        """The tools as an MCP server lists them (``tools/list``)."""
        return [{"name": one.name, "description": one.description, "inputSchema": one.input.schema} for one in self]
