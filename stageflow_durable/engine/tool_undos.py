"""Undoing the calls of tools with their stage: the latest first, then what the stage itself did."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.codec import decode
from stageflow_durable.engine import loop
from stageflow_durable.engine.body import is_awaitable
from stageflow_durable.engine.interrupt import TakenOver
from stageflow_durable.engine.steps import call_key, patiently, told_of_undo
from stageflow_durable.engine.typed import typed
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.work import Fenced, Work
from stageflow_durable.store.protocol import Store
from stageflow_durable.tools.call import ToolCall
from stageflow_durable.tools.definition import ToolDefinition
from stageflow_durable.tools.registry import ToolRegistry
from stageflow_durable.transitions.rows import CallRow


def call_of(run_id: str, row: CallRow, tool: ToolDefinition | None) -> ToolCall:
    """A row as its undo handler sees it."""
    own = call_key(run_id, row.stage, row.item, row.call)
    return ToolCall(
        run_id,
        row.stage,
        row.n,
        row.name,
        row.action or row.name,
        decode(row.arguments or "{}"),
        None if row.result is None else _result(row.result, tool),
        "unknown" if row.saved_at is None else "ok",
        own,
        f"{own}_undo",
        row.undone_at is not None,
        row.call,
    )


def _result(text: str, tool: ToolDefinition | None) -> Any:
    """As the tool declares it; as it was saved, where a deploy has changed what it declares."""
    if tool is None or tool.as_type is None:
        return decode(text)
    try:
        return typed(tool.as_type).read_output(text, "result")
    except InvalidInput:
        return decode(text)


def undoing(
    own: Callable[[Any], Any], store: Store, work: Work, registry: ToolRegistry, world: World, limits: Any
) -> Callable[[Any], Any]:
    """The undo of a stage with tools: its calls, then the stage's ``own``. Each call that was undone is written down
    under the fence of the undo's attempt, so that another attempt goes on behind it.
    """

    def undo(ctx: Any) -> Any:
        for row in reversed(store.calls(work.run.id, work.stage, work.item)):
            if row.undoable and row.undone_at is None:
                _undo_call(row)
        return own(ctx)

    def _undo_call(row: CallRow) -> None:
        tool = registry.of_action(row.action or "")
        if tool is None or tool.undo_handler is None:
            raise TypeError(f"call {row.n} of tool {row.name!r} cannot be undone: its tool has no undo any more")
        value = tool.undo_handler(call_of(work.run.id, row, tool))
        if is_awaitable(value):
            loop.run(lambda _coroutine: value, copy_context(), None, f"run {work.run.id}: undo of tool {row.name}")
        done = row._replace(undone_at=world.clock.time())

        def save(doubt: bool) -> Any:
            return store.save_call(work, done, told_of_undo(row), doubt=doubt)

        if isinstance(patiently(world, limits.hold_seconds, save, lambda: True), Fenced):
            raise TakenOver(f"its work was taken over: the undo of tool {row.name!r} is not saved")

    return undo
