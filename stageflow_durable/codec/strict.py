"""JSON that somebody else wrote: read so that no two readers take it for different things."""

from __future__ import annotations

import json
from typing import Any


def json_mistake(error: ValueError) -> str:
    """Where and what, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg[:1].lower()}{error.msg[1:].removesuffix(' at')} at {line}column {error.colno}"
    return str(error)


def strict_json(text: str) -> Any:
    """JSON without NaN and Infinity, and without a name that stands twice in one object. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once_each)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # Python keeps the last, others the first: nobody knows which was meant
        names = [name for name, _value in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
