"""Whether what is to be called with one context can be: looked at when it is defined, not when it is called. Pure."""

from __future__ import annotations

import inspect
from functools import lru_cache
from types import FunctionType
from typing import Any


def uncallable(given: Any, what: str = "context") -> str | None:
    """What is wrong with ``given`` as a function of one argument; None: nothing that can be seen from outside."""
    if not callable(given):
        return f"{shown(given)} is not a function of one {what}"
    if isinstance(given, type):
        return f"{given.__name__} is a class; give an instance of it, or a function"
    # A function is looked at once, in however many stages and pipelines it is.
    return _known_mistake(given, what) if isinstance(given, FunctionType) else _mistake(given, what)


def _mistake(given: Any, what: str) -> str | None:
    body = inspect.unwrap(given)
    if inspect.isgeneratorfunction(body) or inspect.isasyncgenfunction(body):
        return f"{shown(given)} yields; it has to return its value"
    try:
        signature = inspect.signature(given)
    except (TypeError, ValueError):  # one of C, or with a signature that lies: it is found out when it is called
        return None
    try:
        signature.bind(object())
    except TypeError:
        return f"{shown(given)} takes {signature}; it is called with one argument, the {what}"
    return None


_known_mistake = lru_cache(maxsize=4096)(_mistake)


def shown(given: Any) -> str:
    """The name of a function, or else what it is."""
    name = getattr(given, "__name__", None)
    return name if isinstance(name, str) else repr(given)
