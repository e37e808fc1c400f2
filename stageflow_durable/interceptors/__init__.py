"""Interceptors wrap a stage's body: before it, after its outcome is saved, and when it raised.

They never swallow: an error in ``before`` is the stage's error; one in ``after`` or ``on_error`` is recorded in the
run's history, since the outcome is saved by then and an observer's error must never turn a charge into a refund.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stageflow_durable.model.output import StageOutput


class Interceptor:
    """Base of an interceptor; override what is needed. Lower ``priority`` is further out: first before, last after."""

    name: str = "interceptor"
    priority: int = 100

    def before(self, ctx: Any) -> StageOutput | None:
        """Called before the body with its StageContext; a StageOutput takes the body's place."""
        return None

    def after(self, ctx: Any, output: StageOutput) -> None:
        """Called once the outcome is saved."""

    def on_error(self, ctx: Any, error: BaseException) -> None:
        """Called when the body raised, once that is saved."""


def in_order(interceptors: Iterable[Any]) -> tuple[Any, ...]:
    """Outermost first; equal priorities keep the order in which they were given."""
    return tuple(sorted(interceptors, key=lambda interceptor: interceptor.priority))


def get_default_interceptors() -> Sequence[Interceptor]:
    """What an engine uses when nothing is said: none. Idempotency, retries and undo are the engine's own, not
    interceptors.
    """
    return ()


__all__ = ["Interceptor", "get_default_interceptors", "in_order"]
