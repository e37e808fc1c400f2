"""From plain values to tagged JSON text.

A value that JSON lacks is ``{"$sf": tag, "v": payload}``. A dict that JSON would change (with keys that are not
text), or that holds the tag's own key, is written as its pairs under the tag ``dict``: nothing that a user saves can
pass for a tag.

What has a class to be restored is ``{"$sf": "enum", "of": name, "v": payload}``, where the payload is what it is to
those who do not know the name. An enum's name is text; any other is JSON: an array of the class, of the shape of its
fields, and, where there is more to say, an object. So a release that knows enums only reads the payload.
"""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from json.encoder import c_make_encoder, encode_basestring_ascii  # type: ignore[attr-defined]  # typeshed lacks one
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from stageflow_durable.codec.classes import Classes, name_of, shape_of
from stageflow_durable.codec.enums import name_of as name_of_enum
from stageflow_durable.codec.frozen import FrozenDict, FrozenList
from stageflow_durable.codec.kinds import Kind
from stageflow_durable.codec.paths import MAX_DEPTH
from stageflow_durable.codec.plain import SavedObject, has_known_zone, tree

TAG = "$sf"
PAYLOAD = "v"
ENUM_NAME = "of"
OBJECT = "object"
VALIDATED = "="  # as the name of a class: none, the value was validated as the type of this shape
ZONE = "zone"
FOLD = " fold"  # after the time of day: the second of two, when clocks are set back

JSON_ATOMS: frozenset[type] = frozenset({str, int, float, bool, type(None)})
_PATH = type(Path())
# The JSON writer asks ``tagged`` about these; tuples and enums it would flatten unasked, and sets need a look inside.
_ATOMS: frozenset[type] = JSON_ATOMS | {datetime, date, timedelta, UUID, bytes, _PATH}

_WITH_FIELDS = frozenset({Kind.MODEL, Kind.DATACLASS})
_AS_THEY_ARE: frozenset[type] = frozenset({int, float, bool, type(None)})
_SURROGATE = re.compile("[\ud800-\udfff]")
_TEXT = frozenset({str})
_OBJECTS = frozenset({dict, FrozenDict})
_ARRAYS = frozenset({list, FrozenList})


class Marked(dict[str, object]):
    """An object on its way to canonical text, under a tag that nothing is saved under."""


def encode(value: object, root: str = "value", classes: Classes | None = None) -> str:
    """Return ``value`` as ASCII JSON text that ``decode`` restores; ``tree`` says what is converted on the way.

    ``classes``: of the type as which ``value`` was validated; the text says that it was. The text is not canonical
    (dicts keep their order): compare by ``canonical``. Raises :class:`UnsavableValue` with the path below ``root`` of
    what cannot be saved. Cost: tens of microseconds for a kilobyte of JSON types and dates, a few times that with
    sets, tuples, enums or models.
    """
    text = quick_text(value, _ATOMS, write_json)
    if text is None:
        saved = tree(value, root, classes)
        text = quick_object(saved, _ATOMS) or write_json(tagged(saved))
    return marked(text, classes)


def quick_object(saved: object, atoms: frozenset[type]) -> str | None:
    """The text of an object of which there is nothing but its fields, and these JSON can write as they are."""
    if type(saved) is not SavedObject or has_more(saved):
        return None
    view = quick_text(saved.parts.view, atoms, write_json)
    return None if view is None else f"{_opening(saved.cls, saved.make.fields)}{view}}}"


@lru_cache(maxsize=4096)
def _opening(cls: type, fields: tuple[str, ...]) -> str:
    return f'{{"{TAG}":"enum","{ENUM_NAME}":{write_json(_name(cls, fields))},"{PAYLOAD}":'


def has_more(saved: SavedObject) -> bool:
    """Whether an object is more than its fields, all of them set."""
    parts = saved.parts
    return bool(parts.unset or parts.extra or parts.rest or saved.make.not_shown or parts.private is not None)


def marked(text: str, classes: Classes | None) -> str:
    """An encoded value with the note that it was validated, where its class does not say so."""
    if classes is None or classes.mark is None:
        return text
    name = write_json(write_json([VALIDATED, classes.mark]))
    return f'{{"{TAG}":"enum","{ENUM_NAME}":{name},"{PAYLOAD}":{text}}}'


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


def _named(name: str, payload: object) -> dict[str, object]:
    return {TAG: "enum", ENUM_NAME: name, PAYLOAD: payload}


def _enum(value: Enum) -> dict[str, object]:
    return _named(name_of_enum(type(value)), tagged(value.value))


def _object(saved: SavedObject) -> dict[str, object]:
    parts, make = saved.parts, saved.make
    view = parts.view
    if make.kind in _WITH_FIELDS and not make.is_root and TAG not in view:
        view = {name: part if type(part) in _AS_THEY_ARE else tagged(part) for name, part in view.items()}
    else:
        view = tagged(view)
    if not has_more(saved):
        return _named(_name(saved.cls, make.fields), view)
    more: dict[str, object] = {}
    if parts.unset:
        more["unset"] = list(parts.unset)
    if parts.extra:
        more["extra"] = list(parts.extra)
    for name, held in (("private", parts.private), ("rest", parts.rest)):
        if held is not None:
            more[name] = tagged(held)
    if make.not_shown:
        more["hidden"] = True if make.is_root else sorted(make.not_shown)
    name = _name(saved.cls, make.fields)
    return _named(f"{name[:-1]},{write_json(more)}]", view)


@lru_cache(maxsize=4096)
def _name(cls: type, fields: tuple[str, ...]) -> str:
    return write_json([name_of(cls), shape_of(cls, fields)])


def _str(value: str) -> object:
    return value if _is_text(value) else _tag("str", _base64(value.encode("utf-8", "surrogatepass")))


def _is_text(value: object) -> bool:
    return type(value) is str and (value.isascii() or not _SURROGATE.search(value))


def _base64(value: bytes) -> str:
    return b64encode(value).decode("ascii")


def _clock(value: datetime | time) -> str:
    return value.isoformat() + (FOLD if value.fold else "")


def _datetime(value: datetime) -> dict[str, object]:
    if not has_known_zone(value):
        raise ValueError("a zone of an unknown class")  # the careful way names where
    told = _tag("datetime", _clock(value))
    return _named(write_json([ZONE, value.tzinfo.key]), told) if isinstance(value.tzinfo, ZoneInfo) else told


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
    datetime: _datetime,
    SavedObject: _object,
    Marked: lambda value: _tag(OBJECT, {key: tagged(item) for key, item in value.items()}),
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
