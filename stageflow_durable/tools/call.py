"""A tool's call, as an undo handler and a stage's body see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. ``number``: which of its stage's steps it is; ``arguments``: as the tool got them.

    ``outcome``: ``"ok"`` with the ``result``, or ``"unknown"``: it was begun, and nobody knows whether it happened, so
    an undo has to work if it never did. ``idempotency_key``: the key that the call used, so that the remote can refuse
    it later; ``undo_key``: the undo's own. ``undone``: it was undone.
    """

    run_id: str
    stage: str
    number: int
    tool: str
    action_type: str
    arguments: dict[str, Any]
    result: Any
    outcome: Literal["ok", "unknown"]
    idempotency_key: str
    undo_key: str
    undone: bool = False
    call: str = field(default="", repr=False)
    made_in: Any = field(default=None, repr=False, compare=False)
    """The attempt that made it or found it: ``ToolRegistry.undo`` undoes it there."""
