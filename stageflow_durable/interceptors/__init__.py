"""Interceptors wrap a stage's body: before it, after its outcome is saved, and when it raised.

They never swallow: an error in ``before`` is the stage's error; one in ``after`` or ``on_error`` is recorded in the
run's history, since the outcome is saved by then and an observer's error must never turn a charge into a refund.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stageflow_durable.errors import ConfigurationError
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
    """Outermost first; equal priorities keep the order in which they were given.

    Raises ConfigurationError, naming what is no interceptor: one has ``before``, ``after``, ``on_error``, ``priority``
    and ``name``.
    """
    if isinstance(interceptors, str) or not isinstance(interceptors, Iterable):
        raise ConfigurationError(f"interceptors= is a list of interceptors, not {type(interceptors).__name__}")
    found = tuple(interceptors)
    if problems := [f"interceptors[{n}] {wrong}" for n, one in enumerate(found) if (wrong := _misfit(one))]:
        raise ConfigurationError("; ".join(problems))
    return tuple(sorted(found, key=lambda interceptor: interceptor.priority))


def _misfit(one: Any) -> str | None:
    if isinstance(one, type):
        return f"is the class {one.__name__}; give an instance of it"
    lacking = [f"{name}()" for name in ("before", "after", "on_error") if not callable(getattr(one, name, None))]
    priority = getattr(one, "priority", None)
    if isinstance(priority, bool) or not isinstance(priority, int | float):
        lacking.append("a number as priority")
    if not isinstance(getattr(one, "name", None), str):
        lacking.append("a text as name")
    return f"of type {type(one).__name__} is no interceptor: it lacks {', '.join(lacking)}" if lacking else None


def get_default_interceptors() -> Sequence[Interceptor]:
    """What an engine uses when nothing is said: none. Idempotency, retries and undo are the engine's own, not
    interceptors.
    """
    return ()


__all__ = ["Interceptor", "get_default_interceptors", "in_order"]
