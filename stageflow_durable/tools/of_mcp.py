"""The tools of an MCP server as tools of ours: listed once, and called over a connection for each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

from stageflow_durable.errors import ConfigurationError, PermanentError
from stageflow_durable.model import json_schema
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.tools.definition import ToolDefinition
from stageflow_durable.tools.schemas import OWN_KEY

MOST_TOOLS = 1_000
"""Tools of one server at the most: a listing that never ends is found out."""

Connect = Callable[[], AbstractAsyncContextManager[Any]]
"""Gives a client of the ``mcp`` SDK that is not connected yet: ``lambda: mcp.Client("https://example.com/mcp")``."""


def mcp_tools(
    connect: Connect,
    *,
    prefix: str = "",
    timeout: float | timedelta | None = 60,
    retry: RetryPolicy | None = None,
) -> list[ToolDefinition]:
    """The tools of an MCP server, for ``ToolRegistry(mcp_tools(…))``. The server is asked here, once; and each call
    opens a connection of its own, so that nothing is kept between processes.

    ``connect``: makes a client of the ``mcp`` SDK (2.x), which is entered with ``async with``. ``prefix``: before each
    name, where two servers have tools of one name. ``timeout`` and ``retry``: as of :class:`ToolDefinition`, for each.
    A call carries its idempotency key as ``idempotency_key`` in its ``_meta``; a server that knows nothing of that does
    a call again that was made and not saved. An answer that says it is an error is one for good: a model is told.

    Raises ConfigurationError for what cannot be a tool, and what the SDK raises when the server cannot be reached.
    """
    with ThreadPoolExecutor(1) as apart:  # whoever calls this may be within a loop
        listed = apart.submit(asyncio.run, _listed(connect)).result()
    return [_tool(connect, one, prefix, timeout, retry) for one in listed]


async def _listed(connect: Connect) -> list[Any]:
    found: list[Any] = []
    async with connect() as client:
        cursor: str | None = None
        while True:
            page = await client.list_tools(cursor=cursor)
            found += page.tools
            cursor = page.next_cursor
            if len(found) > MOST_TOOLS:
                raise ConfigurationError(f"the MCP server lists more than {MOST_TOOLS:,} tools")
            if cursor is None:
                return found


def _tool(
    connect: Connect, listed: Any, prefix: str, timeout: float | timedelta | None, retry: RetryPolicy | None
) -> ToolDefinition:
    name = listed.name

    takes_key = OWN_KEY in listed.input_schema.get("properties", {})

    async def call(idempotency_key: str, **arguments: Any) -> Any:
        if takes_key:
            arguments[OWN_KEY] = idempotency_key  # whatever a model made up for it
        async with connect() as client:
            said = await client.call_tool(name, arguments, meta={"idempotency_key": idempotency_key})
        texts = [block.text for block in said.content if getattr(block, "type", None) == "text"]
        if said.is_error:
            raise PermanentError(f"MCP tool {name!r}: {' '.join(texts) or 'it failed and does not say why'}")
        return said.structured_content if said.structured_content is not None else "\n".join(texts)

    schema = dict(listed.input_schema)
    made = ToolDefinition(
        f"{prefix}{name}",
        call,
        description=listed.description or "",
        # What cannot be checked here the server checks.
        input_schema={"type": "object"} if json_schema.mistakes(schema) else schema,
        timeout=timeout,
        retry=retry,
    )
    made.input.schema = schema  # models are told all of it
    return made
