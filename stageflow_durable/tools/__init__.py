"""Tools: functions that a model chooses, with the schemas of their arguments. A call is a saved step of its stage."""

from __future__ import annotations

from stageflow_durable.errors import NothingToUndo, ToolTimeout, UnknownTool
from stageflow_durable.tools.call import ToolCall
from stageflow_durable.tools.definition import ToolDefinition, tool
from stageflow_durable.tools.of_mcp import mcp_tools
from stageflow_durable.tools.registry import ToolRegistry

__all__ = [
    "NothingToUndo",
    "ToolCall",
    "ToolDefinition",
    "ToolRegistry",
    "ToolTimeout",
    "UnknownTool",
    "mcp_tools",
    "tool",
]
