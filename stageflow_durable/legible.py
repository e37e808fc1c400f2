"""Values as people and programs are shown them: text from elsewhere (errors, keys, names) never acts on a terminal or
hides what stands there, and everything can be written as JSON.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

V = TypeVar("V")

# Unicode calls them ignorable: nobody sees them. What joins characters, or chooses their looks, belongs to many words.
_HIDDEN = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufeff"
    "\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_JOINING = "\u200c\u200d\ufe00-\ufe0f"
UNSEEN = re.compile(f"[{_HIDDEN}{_JOINING}]")
"""Characters that nobody sees: two texts that differ in them alone look the same."""

# Controls (escape sequences begin with one), surrogates that no terminal can be sent, and what reverses text or hides.
_ACTS = re.compile(f"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{_HIDDEN}]")
_BREAKS = re.compile("[ ]*[\t\n\v\f\r\x85\u2028\u2029][ \t\n\v\f\r\x85\u2028\u2029]*")


def legible(text: str) -> str:
    r"""``text`` on one line, with every other control character written as ``\x1b``, ``\u202e``."""
    return _ACTS.sub(_written, _BREAKS.sub(" ", text))


def harmless_json(document: str) -> str:
    """The same JSON with the characters that a terminal would act on escaped; line breaks between values stay."""
    return _ACTS.sub(lambda found: found[0] if found[0] == "\n" else json.dumps(found[0])[1:-1], document)


def for_people(value: V) -> V:
    """A record with all its text made legible, to any depth."""
    shown: V = _for_people(value)
    return shown


def _for_people(value: Any) -> Any:
    if type(value) is str:  # a StrEnum is one of ours
        return legible(value)
    if isinstance(value, tuple | list):
        return type(value)(map(_for_people, value))
    if isinstance(value, dict):
        return {_for_people(key): _for_people(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _for_people(getattr(value, field.name)) for field in fields(value)})
    return value


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def jsonable(value: Any) -> Any:
    """``value`` as plain JSON: records by their fields, times as ISO 8601 in UTC, durations in seconds, else text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has neither NaN nor infinity, and its readers refuse a document with one
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    return _scalar(value)


def _object(value: Mapping[Any, Any]) -> Any:
    """A JSON object; where two keys would be one text, as of 1 and "1", a list of pairs: nothing gets lost."""
    shown = {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    return shown if len(shown) == len(value) else [[jsonable(key), jsonable(item)] for key, item in value.items()]


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, datetime):
        return iso(value) if value.tzinfo else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return jsonable(value.model_dump()) if hasattr(value, "model_dump") else str(value)


def iso(at: datetime) -> str:
    """``2026-01-31T03:02:11.123456Z``."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
