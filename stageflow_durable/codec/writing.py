"""From plain values to tagged JSON text.

A value that JSON lacks is ``{"$sf": tag, "v": payload}``. A dict that JSON would change (with keys that are not
text), or that holds the tag's own key, is written as its pairs under the tag ``dict``: nothing that a user saves can
pass for a tag.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]  # typeshed lacks one
from pathlib import Path
from typing import Any
from uuid import UUID

from stageflow_durable.codec.enums import name_of
from stageflow_durable.codec.frozen import FrozenDict, FrozenList
from stageflow_durable.codec.plain import MAX_DEPTH, plain

TAG = "$sf"
PAYLOAD = "v"
ENUM_NAME = "of"
FOLD = " fold"  # after the time of day: the second of two, when clocks are set back

JSON_ATOMS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
_PATH = type(Path())
# The JSON writer asks ``tagged`` about these; tuples and enums it would flatten unasked, and sets need a look inside.
_ATOMS: frozenset[type] = JSON_ATOMS | {datetime, date, timedelta, UUID, bytes, _PATH}

_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXT = frozenset({str})
_OBJECTS = frozenset({dict, FrozenDict})
_ARRAYS = frozenset({list, FrozenList})


def encode(value: object, root: str = "value") -> str:
    """Return ``value`` as ASCII JSON text that ``decode`` restores; ``plain`` says what is converted on the way.

    The text is not canonical (dicts keep their order): compare by ``canonical``. Raises :class:`UnsavableValue` with
    the path below ``root`` of what cannot be saved. Cost: tens of microseconds for a kilobyte of JSON types and
    dates, a few times that with sets, tuples, enums or models.
    """
    text = quick_text(value, _ATOMS, write_json)
    return write_json(tagged(plain(value, root))) if text is None else text


def quick_text(value: object, atoms: frozenset[type], write: Callable[[object], str]) -> str | None:
    """Return what ``write`` makes of ``value`` when that loses nothing (``atoms``, lists, dicts by text), else None."""
    if not _is_json(value, atoms, MAX_DEPTH):
        return None
    try:
        text = write(value)
    except ValueError:  # NaN, or an integer that is too long: the careful way names where
        return None
    return None if "\\ud" in text and _has_surrogates(value) else text


def tagged(value: Any) -> Any:
    """Return a plain value (see ``plain``) as JSON types only."""
    write = _WRITERS.get(type(value))
    if write is not None:
        return write(value)
    return _enum(value) if isinstance(value, Enum) else value


def _is_json(value: Any, atoms: frozenset[type], room: int) -> bool:
    """Whether the JSON writer alone is right about ``value``; exact types only, as it flattens their subclasses."""
    kind = type(value)
    if kind in atoms:
        return True
    if kind in _OBJECTS:
        if TAG in value or not _TEXT.issuperset(map(type, value)):
            return False
        items = value.values()
    elif kind in _ARRAYS:
        items = value
    else:
        return False
    if room == 0:
        return False
    return atoms.issuperset(map(type, items)) or all(
        type(item) in atoms or _is_json(item, atoms, room - 1) for item in items
    )


def _has_surrogates(value: object) -> bool:
    # The escapes of an emoji and of two lone surrogates look alike; only UTF-8 tells them apart.
    try:
        _write_raw(value).encode()
    except UnicodeEncodeError:
        return True
    return False


def _tag(name: str, payload: object) -> dict[str, object]:
    return {TAG: name, PAYLOAD: payload}


def _enum(value: Enum) -> dict[str, object]:
    return {TAG: "enum", ENUM_NAME: name_of(type(value)), PAYLOAD: tagged(value.value)}


def _str(value: str) -> object:
    return value if _is_text(value) else _tag("str", _base64(value.encode("utf-8", "surrogatepass")))


def _is_text(value: object) -> bool:
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _clock(value: datetime | time) -> str:
    return value.isoformat() + (FOLD if value.fold else "")


def is_object(value: dict[Any, Any]) -> bool:
    """Whether a plain dict is written as a JSON object; otherwise as its pairs, in their order, under a tag."""
    return TAG not in value and all(map(_is_text, value))


def _dict(value: dict[Any, Any]) -> dict[str, object]:
    if is_object(value):
        return {key: tagged(item) for key, item in value.items()}
    return _tag("dict", [[tagged(key), tagged(item)] for key, item in value.items()])


def _list(value: list[object] | tuple[object, ...]) -> list[object]:
    return [tagged(item) for item in value]


def _sorted(value: set[object] | frozenset[object]) -> list[object]:
    return sorted(map(tagged, value), key=write_json)  # hash order differs between processes


_WRITERS: dict[type, Callable[[Any], object]] = {
    str: _str,
    dict: _dict,
    list: _list,
    tuple: lambda value: _tag("tuple", _list(value)),
    set: lambda value: _tag("set", _sorted(value)),
    frozenset: lambda value: _tag("frozenset", _sorted(value)),
    datetime: lambda value: _tag("datetime", _clock(value)),
    date: lambda value: _tag("date", value.isoformat()),
    time: lambda value: _tag("time", _clock(value)),
    timedelta: lambda value: _tag("timedelta", [value.days, value.seconds, value.microseconds]),
    UUID: lambda value: _tag("uuid", str(value)),
    Decimal: lambda value: _tag("decimal", str(value)),
    bytes: lambda value: _tag("bytes", _base64(value)),
    _PATH: lambda value: _tag("path", _str(str(value))),
}


def json_writer(default: Callable[[Any], object] | None = None, *, sort_keys: bool = False) -> Callable[[object], str]:
    """What writes compact ASCII JSON: NUL and lone surrogates are escapes, so every database takes the text. Cycles
    have to be found before.

    ``JSONEncoder.encode`` makes its encoder in C anew at every call, which takes longer than writing a small value.
    """
    made = json.JSONEncoder(
        check_circular=False, allow_nan=False, separators=(",", ":"), default=default, sort_keys=sort_keys
    )
    try:
        pieces = c_make_encoder(None, made.default, encode_basestring_ascii, None, ":", ",", sort_keys, False, False)
    except TypeError:  # there is none, or it is another Python's
        return made.encode
    return lambda value: "".join(pieces(value, 0))


write_json = json_writer(tagged)
_write_raw = json.JSONEncoder(check_circular=False, ensure_ascii=False, default=tagged).encode
