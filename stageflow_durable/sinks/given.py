"""What applications give as sinks: looked at when the engine is made, not when the first event is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.sinks import Sink
from stageflow_durable.sinks.checked import check_kinds, check_name
from stageflow_durable.sinks.function import Function


def sinks_of(given: Any) -> tuple[Sink, ...]:
    """``sinks=`` as sinks. Raises ConfigurationError."""
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise ConfigurationError(f"sinks= is a list of functions and sinks, not {type(given).__name__}")
    found = tuple(_sink(f"sinks[{number}]", one) for number, one in enumerate(given))
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"two sinks are named {twice!r}: each has a name of its own, by which it goes on")
    return found


def target_of(given: Any) -> Sink:
    """``on_attention=``: a function, or a sink. Raises ConfigurationError."""
    if not hasattr(given, "deliver") and not callable(given):
        raise ConfigurationError(f"on_attention={given!r} is neither a function nor a sink")
    if hasattr(given, "deliver"):
        return _sink("on_attention", given)
    return Function(given, name="attention")


def _sink(where: str, given: Any) -> Sink:
    if isinstance(given, type):
        raise ConfigurationError(f"{where} is the class {given.__name__}; give an instance of it")
    found = given if hasattr(given, "deliver") else Function(given)
    lacks = next((name for name in ("name", "kinds") if not hasattr(found, name)), None)
    if lacks is not None:
        raise ConfigurationError(f"{where}, a {type(given).__name__}, has no {lacks}; see stageflow_durable.sinks.Sink")
    check_name(found.name)
    check_kinds(found.kinds)
    return found
