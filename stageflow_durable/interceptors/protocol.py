"""What wraps a stage's body, and what is told of an attempt's end."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.callables import uncallable
from stageflow_durable.model.context import Observer

CallNext = Callable[[Any], Any]
"""What is further in: ``call_next(ctx)``, to be awaited in an ``async def around``, gives a StageOutput or raises."""


class Interceptor(ABC):
    """Wraps the body of every stage. Lower ``priority`` is further out; equal ones nest in the order given.

    Deriving from it is optional: what has ``name``, ``priority`` and ``around`` is an interceptor.
    """

    name: str = "interceptor"
    priority: int = 100

    @abstractmethod
    def around(self, ctx: Any, call_next: CallNext) -> Any:
        """Return the stage's outcome, a :class:`StageOutput`: that of ``call_next(ctx)``, or one of its own.

        ``def`` or ``async def``, whatever the body is; an ``async def`` awaits ``call_next(ctx)``. It may call it with
        a context of its own (``dataclasses.replace``), or not at all, but not twice: an attempt is one call of the
        body, and ``StageOutput.retry`` asks for another. What it raises is the attempt's outcome, as if the body had
        raised it. The stage's ``timeout`` bounds both together.
        """


def in_order(interceptors: Iterable[Any]) -> tuple[Any, ...]:
    """Outermost first; equal priorities keep the order in which they were given.

    Raises ConfigurationError, naming what is no interceptor.
    """
    found = _listed(interceptors, "interceptors", "interceptors")
    if problems := [f"interceptors[{n}] {wrong}" for n, one in enumerate(found) if (wrong := _unfit(one))]:
        raise ConfigurationError("; ".join(problems))
    return tuple(sorted(found, key=lambda interceptor: interceptor.priority))


def check_observers(observers: Iterable[Any]) -> tuple[Observer, ...]:
    """The observers, in the order given. Raises ConfigurationError, naming what cannot be called with one argument."""
    found = _listed(observers, "observers", "functions")
    if problems := [f"observers[{n}]: {wrong}" for n, one in enumerate(found) if (wrong := uncallable(one, "end"))]:
        raise ConfigurationError("; ".join(problems))
    return found


def _listed(given: Any, keyword: str, of: str) -> tuple[Any, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ConfigurationError(f"{keyword}= is a list of {of}, not {type(given).__name__}")
    return tuple(given)


def _unfit(one: Any) -> str | None:
    if isinstance(one, type):
        return f"is the class {one.__name__}; give an instance of it"
    lacking = [] if _wraps(getattr(one, "around", None)) else ["around(ctx, call_next)"]
    priority = getattr(one, "priority", None)
    if isinstance(priority, bool) or not isinstance(priority, int | float):
        lacking.append("a number as priority")
    if not isinstance(getattr(one, "name", None), str):
        lacking.append("a text as name")
    return f"of type {type(one).__name__} is no interceptor: it lacks {', '.join(lacking)}" if lacking else None


def _wraps(around: Any) -> bool:
    if not callable(around):
        return False
    try:
        inspect.signature(around).bind(object(), object())
    except TypeError:
        return False
    except ValueError:  # one of C has no signature: it is found out when it is called
        return True
    return True
