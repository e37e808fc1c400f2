"""Calling tools in a stage: ``ctx.tools``. Each call is a saved step; what can be undone is written down before it is
made.
"""

from __future__ import annotations

import asyncio
import inspect
from contextvars import copy_context
from dataclasses import replace
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.codec import decode, encode_and_fingerprint
from stageflow_durable.engine import loop
from stageflow_durable.engine.body import is_awaitable
from stageflow_durable.engine.interrupt import StageTimeout, TakenOver, bounded, time_left
from stageflow_durable.engine.leftovers import within_a_body
from stageflow_durable.engine.outcome import text_of
from stageflow_durable.engine.payload import within
from stageflow_durable.engine.steps import Asked, Steps
from stageflow_durable.engine.tool_undos import call_of
from stageflow_durable.errors import ConfigurationError, InvalidInput, NothingToUndo, ToolTimeout, UnknownTool
from stageflow_durable.idempotency.keys import key_text
from stageflow_durable.masking import masked_value
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.retry import Category, GiveUp, classify, decide, retry_after_of
from stageflow_durable.tools.call import ToolCall
from stageflow_durable.tools.definition import ToolDefinition
from stageflow_durable.tools.forms import Answer, Request, answered, parse
from stageflow_durable.tools.registry import ToolRegistry
from stageflow_durable.transitions.rows import CallRow

SHOWN_BYTES = 4_000
"""Arguments that are longer stand in the history by their digest alone."""

TOLD = frozenset({Category.PERMANENT, Category.POLICY})
"""Failures that a model is told of: another call may do better. Others are the stage's."""


class Tools:
    """The tools of one attempt of a stage."""

    def __init__(self, steps: Steps, registry: ToolRegistry, ctx: Any) -> None:
        self.registry = registry
        self._steps = steps
        self._ctx = ctx
        self._world = steps.world

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, tool: str, arguments: Any = None, /, *, key: str | None = None, **options: Any) -> Any:
        """Call a tool, and save what it returns: ``ctx.tools.call("search", query="x")``, or with its arguments as a
        dict. In ``async def`` it is awaited. A call is a step of its stage, found again as ``ctx.step`` says.

        Raises UnknownTool, InvalidInput for arguments that do not fit, ToolTimeout, what the tool raises, and what
        ``ctx.step`` does.
        """
        found = self.registry[tool]
        given = options if arguments is None else arguments
        if arguments is not None and options:
            raise ConfigurationError(f"tool {tool!r}: arguments are given as a dict, or by their names, not both")
        ready = found.input.validated(given)
        return self._steps.run(self._asked(found, given, key), lambda own: self._made(found, ready, own))

    def _asked(self, tool: ToolDefinition, given: Any, key: str | None) -> Asked:
        what = f"arguments of tool {tool.name!r}"
        text, digest = encode_and_fingerprint(dict(given), root=what)
        within(text, given, self._steps.limits.payload_bytes, what)
        undoable = tool.undo_handler is not None
        if undoable and not self._steps.work.plan.by_name[self._steps.work.stage].undoes_calls:
            raise ConfigurationError(
                f"tool {tool.name!r} has an undo, and was registered after the stage was declared with its registry; "
                "register tools first"
            )
        told: dict[str, Any] = {"tool": tool.name}
        if tool.action_type != tool.name:
            told["action"] = tool.action_type
        if len(text) <= SHOWN_BYTES:
            told["arguments"] = masked_value(decode(text, shown=True))
        return Asked(
            "tool",
            tool.name,
            None if key is None else key_text(key, "call key"),
            str(digest),
            tool.as_type,
            tool.action_type,
            text,
            undoable,
            told,
        )

    def _made(self, tool: ToolDefinition, ready: dict[str, Any], own: str) -> Any:
        signature = tool.signature
        filled = dict(ready)
        if signature.key is not None:
            filled[signature.key] = own
        if signature.context is not None:
            filled[signature.context] = self._ctx
        return self._tried_in_loop(tool, filled) if within_a_body() else self._tried(tool, filled)

    # --- one call, tried as often as its policy says ------------------------------------------------------------------

    def _tried(self, tool: ToolDefinition, filled: dict[str, Any]) -> Any:
        tries = _Tries(tool, self._world)
        while True:
            try:
                return _called(tool, filled)
            except Exception as error:
                delay = self._delay(tool, tries, error)
                if delay is None:
                    raise
            self._world.clock.sleep(delay)

    async def _tried_in_loop(self, tool: ToolDefinition, filled: dict[str, Any]) -> Any:
        tries = _Tries(tool, self._world)
        while True:
            try:
                return await self._awaited(tool, filled)
            except Exception as error:
                delay = self._delay(tool, tries, error)
                if delay is None:
                    raise
            await asyncio.sleep(delay)

    def _delay(self, tool: ToolDefinition, tries: _Tries, error: Exception) -> float | None:
        delay = tries.delay(error)
        self._steps.note_failed(tool.name, tries.n, error, delay)
        return delay

    async def _awaited(self, tool: ToolDefinition, filled: dict[str, Any]) -> Any:
        now, seconds = asyncio.get_running_loop().time, tool.seconds
        limit, began = asyncio.timeout(seconds), now()
        try:
            if inspect.iscoroutinefunction(tool.handler):
                async with limit:
                    return await tool.handler(**filled)
            # A thread cannot be cut off: it is waited for, so that no second try runs beside it.
            value = await asyncio.to_thread(tool.handler, **filled)
            if is_awaitable(value):
                async with limit:
                    return await value
        except TimeoutError:
            if limit.expired():
                raise _late(tool) from None
            raise
        if seconds is not None and now() - began > seconds:
            raise _late(tool)
        return value

    # --- undoing ------------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls of the stage that were made and not undone, also by earlier attempts, in their order."""
        rows = [row for row in self._steps.rows() if row.action is not None and row.undone_at is None]
        return tuple(replace(self._call_of(row), made_in=self) for row in rows)

    def _call_of(self, row: CallRow) -> ToolCall:
        work = self._steps.work
        return call_of(work.run.id, row, self.registry.of_action(row.action or ""))

    def undo(self, call: ToolCall) -> Any:
        """See :meth:`ToolRegistry.undo`."""
        found = self.registry.of_action(call.action_type)
        if found is None or found.undo_handler is None:
            raise NothingToUndo(f"call {call.number} of {call.tool!r} has no undo: its tool has no undo_handler")
        handler = found.undo_handler
        return self._steps.undo(call.call, f"call {call.number} of {call.tool!r}", lambda: handler(call))

    # --- what models ask for ------------------------------------------------------------------------------------------

    def answer(self, message: Any) -> Any:
        """Make the calls that a message asks for, and return the messages that answer it, in its own form: a message of
        OpenAI's chat or responses, of Anthropic's, or a request of MCP's. In ``async def`` it is awaited, and the calls
        go side by side. An empty list: it asked for none.

        A model is told of a tool that it invented, of arguments that do not fit, and of what a tool refuses for good;
        what may pass by itself, and what is a bug, is raised, and the stage is tried again or parked.
        """
        requests = parse(message)
        if within_a_body():
            return self._answered(requests)
        return answered([self._waited(request) for request in requests])

    def _waited(self, request: Request) -> Answer:
        try:
            return Answer(request, self.call(request.name, _arguments(request)))
        except Exception as error:  # noqa: BLE001  # what the model is not told of is raised
            return _told(request, error)

    async def _answered(self, requests: list[Request]) -> list[dict[str, Any]]:
        async def one(request: Request) -> Answer:
            try:
                return Answer(request, await self.call(request.name, _arguments(request)))
            except Exception as error:  # noqa: BLE001  # as above
                return _told(request, error)

        # Each is waited for, also where one is raised: no call runs on beside what comes next.
        ended = await asyncio.gather(*(one(request) for request in requests), return_exceptions=True)
        for end in ended:
            if isinstance(end, BaseException):
                raise end
        return answered([end for end in ended if isinstance(end, Answer)])


def _arguments(request: Request) -> Any:
    if request.problem is not None:
        raise InvalidInput(f"arguments of tool {request.name!r}", [request.problem])
    return {} if request.arguments is None else request.arguments


def _told(request: Request, error: Exception) -> Answer:
    """What the model is told of a failure; raises what it is not told of."""
    if isinstance(error, UnknownTool) or classify(error, RetryPolicy()) in TOLD:
        return Answer(request, error=text_of(error))
    raise error


class _Tries:
    """How often a call was tried. Without a policy it is tried once."""

    def __init__(self, tool: ToolDefinition, world: World) -> None:
        self.n = 0
        self._policy = tool.retry
        self._world = world
        self._began = world.clock.monotonic()
        self._previous: float | None = None

    def delay(self, error: Exception) -> float | None:
        """In how many seconds it is tried again; None: it is not."""
        self.n += 1
        if self._policy is None:
            return None
        decision = decide(
            self._policy,
            n=self.n,
            previous_delay=self._previous,
            category=classify(error, self._policy),
            retry_after=retry_after_of(error, self._world.clock.time()),
            elapsed=self._world.clock.monotonic() - self._began,
            draw=self._world.draw,
        )
        if isinstance(decision, GiveUp):
            return None
        self._previous = decision.drawn
        return decision.delay


def _called(tool: ToolDefinition, filled: dict[str, Any]) -> Any:
    seconds = tool.seconds if tool.seconds is None else min(tool.seconds, time_left())
    try:
        if inspect.iscoroutinefunction(tool.handler):
            value = tool.handler(**filled)
        else:
            with bounded(seconds):
                value = tool.handler(**filled)
        if is_awaitable(value):
            value = loop.run(lambda _coroutine: value, copy_context(), seconds, f"tool {tool.name}")
    except TakenOver:
        raise
    except StageTimeout:
        if seconds is None:
            raise  # the stage's own
        raise _late(tool) from None
    return value


def _late(tool: ToolDefinition) -> ToolTimeout:
    return ToolTimeout(f"tool {tool.name!r} took longer than its timeout of {tool.seconds:g} s; it may have acted")
