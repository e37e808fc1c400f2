"""The tools of an MCP server: listed once, called over a connection for each call. The server is played here, as the
client of the ``mcp`` SDK shows it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from stageflow_durable import Pipeline, RunStatus, TransientError
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.testing import engine_for_tests
from stageflow_durable.tools import ToolRegistry, mcp_tools

STOCK: dict[str, Any] = {"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}


class Server:
    """Pages of tools, and calls of them."""

    def __init__(self, *pages: list[Any]) -> None:
        self.pages = pages or ([_tool("stock", STOCK), _tool("boom", {"type": "object"})],)
        self.connections = 0
        self.called: list[tuple[str, dict[str, Any], str]] = []
        self.down = 0

    @asynccontextmanager
    async def connect(self) -> Any:
        if self.down:
            self.down -= 1
            raise ConnectionError("nobody there")
        self.connections += 1
        yield self

    async def list_tools(self, *, cursor: str | None = None) -> Any:
        page = int(cursor or 0)
        following = str(page + 1) if page + 1 < len(self.pages) else None
        return SimpleNamespace(tools=self.pages[page], next_cursor=following)

    async def call_tool(self, name: str, arguments: dict[str, Any], *, meta: dict[str, Any]) -> Any:
        self.called.append((name, arguments, meta["idempotency_key"]))
        text = SimpleNamespace(type="text", text=f"{name} of {arguments}")
        structured = {"left": 3} if name == "stock" else None
        return SimpleNamespace(content=[text], is_error=name == "boom", structured_content=structured)


def _tool(name: str, schema: dict[str, Any]) -> Any:
    return SimpleNamespace(name=name, description=f"The {name}.", input_schema=schema)


def test_they_are_called_as_tools_of_ours() -> None:
    server = Server()
    tools = ToolRegistry(mcp_tools(server.connect, prefix="shop_"))
    assert [(one.name, one.description) for one in tools] == [("shop_stock", "The stock."), ("shop_boom", "The boom.")]

    def body(ctx: Any) -> Any:
        found = ctx.tools.call("shop_stock", item="x")
        if ctx.attempt == 1:
            raise TransientError("later")
        failed = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "shop_boom"}}
        return [found, ctx.tools.answer(failed)[0]["result"]]

    with engine_for_tests(Pipeline[Any, Any]("p").stage("a", body, tools=tools), store="memory") as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        found, failed = handle.outputs()["a"]
    assert found == {"left": 3}
    assert failed["isError"] is True and "MCP tool 'boom': boom of {}" in failed["content"][0]["text"]
    assert [(name, given) for name, given, _key in server.called] == [("stock", {"item": "x"}), ("boom", {})]
    assert len({key for _name, _given, key in server.called}) == 2
    assert server.connections == 3  # one to list, one for each call


def test_every_page_is_listed_and_a_list_without_end_is_found_out() -> None:
    pages = [[_tool(f"t{page}_{n}", STOCK) for n in range(100)] for page in range(3)]
    assert len(mcp_tools(Server(*pages).connect)) == 300
    endless = [[_tool(f"t{page}_{n}", STOCK) for n in range(100)] for page in range(12)]
    with pytest.raises(ConfigurationError, match="lists more than 1,000 tools"):
        mcp_tools(Server(*endless).connect)


def test_a_server_that_is_away_is_the_stages_trouble() -> None:
    server = Server()
    tools = ToolRegistry(mcp_tools(server.connect))
    server.down = 1
    body: Any = lambda ctx: ctx.tools.call("stock", item="x")  # noqa: E731  # it is one line
    with engine_for_tests(Pipeline[Any, Any]("p").stage("a", body, tools=tools), store="memory") as engine:
        handle = engine.enqueue("p", {})
        engine.drain()
        assert handle.status() is RunStatus.SUCCEEDED
        assert len(handle.describe().stage("a").attempts) == 2


def test_a_schema_that_says_more_than_can_be_checked_is_left_to_the_server() -> None:
    strange = {**STOCK, "x-of-theirs": 1}
    broken = {"type": "object", "properties": {"item": {"unevaluatedItems": False}}}
    known, unknown = mcp_tools(Server([_tool("a", strange), _tool("b", broken)]).connect)
    assert (known.input.schema, unknown.input.schema) == (strange, broken)  # models are told all of it
    for one in (known, unknown):
        assert one.input.validated({"item": 1}) == {"item": 1}


def test_a_tool_that_takes_a_key_gets_the_calls_own() -> None:
    takes = {"type": "object", "properties": {"idempotency_key": {"type": "string"}}}
    server = Server([_tool("pay", takes)])
    tools = ToolRegistry(mcp_tools(server.connect))
    body: Any = lambda ctx: ctx.tools.call("pay", idempotency_key="what a model made up")  # noqa: E731  # it is one line
    with engine_for_tests(Pipeline[Any, Any]("p").stage("a", body, tools=tools), store="memory") as engine:
        engine.enqueue("p", {})
        engine.drain()
    ((_name, given, key),) = server.called
    assert given == {"idempotency_key": key} and key.startswith("sf_")
