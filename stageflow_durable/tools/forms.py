"""Calls as models and MCP clients write them, and answers in kind: OpenAI's chat completions and responses, Anthropic's
messages, MCP's ``tools/call``. Pure: what is not one of these is refused, and nothing of it is believed but a name and
arguments, which are validated by the tool.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from stageflow_durable.errors import InvalidInput
from stageflow_durable.legible import jsonable

MOST_REQUESTS = 128
"""Calls in one message at the most."""


class Form(StrEnum):
    """In whose form a call came."""

    OPENAI_CHAT = "openai chat"
    OPENAI_RESPONSES = "openai responses"
    ANTHROPIC = "anthropic"
    MCP = "mcp"


class Request(NamedTuple):
    """A call that somebody asks for. ``id``: by which the answer names it; ``problem``: why its arguments cannot be
    read, or None.
    """

    form: Form
    id: Any
    name: str
    arguments: Any
    problem: str | None = None


class Answer(NamedTuple):
    """What a call brought, or (``error``) why it brought nothing."""

    request: Request
    value: Any = None
    error: str | None = None


def parse(message: Any) -> list[Request]:
    """The calls of a message; none if it asks for none. ``message``: an assistant's message of OpenAI's or Anthropic's,
    the output of OpenAI's responses (a list), or an MCP request; as a dict, or as an object of their SDKs. Raises
    InvalidInput.
    """
    given = _plain(message)
    items = given if isinstance(given, list) else [given]
    found = [request for item in items for request in _requests(item)]
    if len(found) > MOST_REQUESTS:
        raise InvalidInput("message", [f"value: {len(found)} calls; at most {MOST_REQUESTS} are taken"])
    return found


def _plain(message: Any) -> Any:
    if isinstance(message, list | tuple):
        return [_plain(one) for one in message]
    dump = getattr(message, "model_dump", None)
    return dump() if callable(dump) else message


def _requests(item: Any) -> Iterable[Request]:
    if not isinstance(item, Mapping):
        raise InvalidInput("message", [f"value: {type(item).__name__} given; a message is an object"])
    if item.get("method") == "tools/call":
        given = _object(item.get("params"), "params")
        return [Request(Form.MCP, item.get("id"), _name(given.get("name")), given.get("arguments") or {})]
    if item.get("type") == "function_call":
        return [_read(Form.OPENAI_RESPONSES, item.get("call_id"), item.get("name"), item.get("arguments"))]
    if item.get("tool_calls"):
        return [_of_chat(_object(call, "tool_calls")) for call in _list(item["tool_calls"], "tool_calls")]
    if isinstance(item.get("content"), list):
        blocks = [_object(block, "content") for block in item["content"]]
        return [
            Request(Form.ANTHROPIC, block.get("id"), _name(block.get("name")), block.get("input"))
            for block in blocks
            if block.get("type") == "tool_use"
        ]
    return []


def _of_chat(call: Mapping[str, Any]) -> Request:
    function = _object(call.get("function"), "function")
    return _read(Form.OPENAI_CHAT, call.get("id"), function.get("name"), function.get("arguments"))


def _read(form: Form, call_id: Any, name: Any, arguments: Any) -> Request:
    """A call whose arguments are JSON in a text, which a model wrote and may have got wrong."""
    if not isinstance(arguments, str):
        return Request(form, call_id, _name(name), arguments)
    try:
        return Request(form, call_id, _name(name), json.loads(arguments or "{}"))
    except (ValueError, RecursionError) as error:
        return Request(form, call_id, _name(name), None, f"the arguments are no JSON: {error}")


def _name(given: Any) -> str:
    if not isinstance(given, str):
        raise InvalidInput("message", [f"name: {type(given).__name__} given; a tool's name is text"])
    return given


def _object(given: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        raise InvalidInput("message", [f"{where}: {type(given).__name__} given; it is an object"])
    return given


def _list(given: Any, where: str) -> Sequence[Any]:
    if not isinstance(given, list):
        raise InvalidInput("message", [f"{where}: {type(given).__name__} given; it is a list"])
    return given


def answered(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """The messages that answer these calls, each in the form in which it was asked for."""
    found: list[dict[str, Any]] = []
    blocks = [_BLOCKS[one.request.form](one) for one in answers]
    of_anthropic = [block for one, block in zip(answers, blocks, strict=True) if one.request.form is Form.ANTHROPIC]
    if of_anthropic:  # all results of a turn are one message
        found.append({"role": "user", "content": of_anthropic})
    found += [block for one, block in zip(answers, blocks, strict=True) if one.request.form is not Form.ANTHROPIC]
    return found


def _text(one: Answer) -> str:
    if one.error is not None:
        return f"error: {one.error}"
    return one.value if isinstance(one.value, str) else json.dumps(jsonable(one.value), ensure_ascii=False)


def _chat(one: Answer) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": one.request.id, "content": _text(one)}


def _responses(one: Answer) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": one.request.id, "output": _text(one)}


def _anthropic(one: Answer) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": one.request.id, "content": _text(one)}
    return block if one.error is None else {**block, "is_error": True}


def _mcp(one: Answer) -> dict[str, Any]:
    result: dict[str, Any] = {"content": [{"type": "text", "text": _text(one)}], "isError": one.error is not None}
    seen = jsonable(one.value)
    if one.error is None and isinstance(seen, dict):
        result["structuredContent"] = seen
    return {"jsonrpc": "2.0", "id": one.request.id, "result": result}


_BLOCKS = {
    Form.OPENAI_CHAT: _chat,
    Form.OPENAI_RESPONSES: _responses,
    Form.ANTHROPIC: _anthropic,
    Form.MCP: _mcp,
}
