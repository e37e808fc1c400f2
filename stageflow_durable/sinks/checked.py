"""What sinks are given, looked at when they are made."""

from __future__ import annotations

import re
from typing import Any

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.sinks import TOLD

_NAME = re.compile(r"[\w.:@/+-]{1,200}")
_HEADER = re.compile(r"[\w!#$%&'*+.^`|~-]{1,100}", re.ASCII)

LONGEST_SECONDS = 50.0
"""How long one delivery may be given: a sink's lease has 60 seconds."""

_KIND = re.compile(r"[\w.]{0,100}")


def check_name(name: Any) -> str:
    """The name of a sink. Raises ConfigurationError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        shown = repr(name)[:100]
        raise ConfigurationError(f"{shown} cannot name a sink: up to 200 letters, digits and any of . : @ / + - _")
    return name


def check_kinds(kinds: Any) -> tuple[str, ...]:
    """How types of events begin. Raises ConfigurationError."""
    fits = (
        isinstance(kinds, tuple | list)
        and kinds
        and all(isinstance(one, str) and _KIND.fullmatch(one) for one in kinds)
    )
    if not fits:
        begin = ", ".join(map(repr, TOLD))
        raise ConfigurationError(f"kinds={kinds!r}: a tuple of how types of events begin, as in ({begin}); '' is all")
    return tuple(kinds)


def check_timeout(seconds: Any) -> float:
    """How long one delivery may take. Raises ConfigurationError."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_SECONDS:
        raise ConfigurationError(f"timeout={seconds!r}: seconds above 0 and up to {LONGEST_SECONDS:g}")
    return float(seconds)


def check_headers(headers: Any) -> dict[str, str]:
    """Headers of a request. Raises ConfigurationError, without a value."""
    for name, value in headers.items():
        plain = isinstance(name, str) and isinstance(value, str) and f"{name}{value}".isprintable() and value.isascii()
        if not plain or not _HEADER.fullmatch(name):
            raise ConfigurationError(f"headers: {name!r} is no name of a header, or its value is no plain ASCII")
    return dict(headers)


def check_command(arguments: Any) -> list[str]:
    """A program and its arguments. Raises ConfigurationError."""
    fits = isinstance(arguments, list | tuple) and arguments
    if not fits or not all(isinstance(one, str) and one and "\0" not in one for one in arguments):
        raise ConfigurationError(
            'a command is a list of a program and its arguments, as in ["notify-send", "stageflow"]'
        )
    return list(arguments)
