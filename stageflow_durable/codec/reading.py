"""From tagged JSON text to values. The text is data: nothing is imported or called that a fixed table does not name."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID
from zoneinfo import ZoneInfo

from stageflow_durable.codec.enums import is_known, restore
from stageflow_durable.codec.paths import MAX_DEPTH
from stageflow_durable.codec.writing import ENUM_NAME, FOLD, PAYLOAD, TAG, ZONE
from stageflow_durable.errors import Terminal
from stageflow_durable.masking import HIDDEN, masked_value

Known = Callable[[str, str, "dict[str, Any] | None", Any], Any]
"""Makes a value of a class's name, the shape of its fields, what else was saved of it, and its plain value; of an enum
there is only a name.
"""

_DEEPEST_TEXT = 4 * MAX_DEPTH + 8  # a dict written as pairs under a tag, with an enum around, nests four times a level


class UnreadableValue(Terminal, ValueError):
    """A stored text is not what ``encode`` writes: damaged, from elsewhere, or from a newer version."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"stored value cannot be read: {problem}")


def decode(text: str, *, shown: bool = False) -> Any:
    """Return the value that ``encode`` wrote as ``text``.

    Dicts and lists are plain; tagged types are restored; models and dataclasses are dicts of their fields; an enum
    that ``register_enum`` does not know is its value; an aware ``datetime`` has its zone, or its offset. ``shown``: for
    people; ``HIDDEN`` stands in the place of fields that their class does not show as they are, and secrets are masked
    (:func:`masking.masked_value`). Raises
    :class:`UnreadableValue` for what ``encode`` does not write: text that is not JSON, NaN and infinity, a key twice,
    an unknown tag or a payload that does not fit it, too deep nesting, integers beyond Python's limit of digits.
    """
    return masked_value(_decode(text, _shown)) if shown else _decode(text, _decoder)


def _decode(text: str, decoder: json.JSONDecoder) -> Any:
    _require_shallow(text)
    try:
        return decoder.decode(text)
    except UnreadableValue:
        raise
    except json.JSONDecodeError as error:
        raise UnreadableValue(f"not JSON at character {error.pos} of {len(text)}: {error.msg}") from None
    except ValueError as error:  # the only one left: Python's limit on the digits of an integer
        raise UnreadableValue("an integer has too many digits") from error


def _require_shallow(text: str) -> None:
    if text.count("[") + text.count("{") <= _DEEPEST_TEXT:
        return
    brackets = _NO_BRACKETS.sub("", text)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > _DEEPEST_TEXT:
        raise UnreadableValue(f"nested deeper than {MAX_DEPTH} values")


_NO_BRACKETS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^\[\]{}"]++', re.DOTALL)
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}


def holds_objects(text: str) -> bool:
    """Whether an encoded value may hold what only its class can restore."""
    return f'"{TAG}":"enum"' in text


def decode_by(text: str, known: Known) -> Any:
    """The same, where ``known`` makes what is named."""
    return _decode(text, decoder_for(known))


def decoder_for(known: Known) -> json.JSONDecoder:
    """What reads a text whose named values ``known`` makes."""

    def read(pairs: list[tuple[str, Any]]) -> Any:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise UnreadableValue("an object has a key twice")
        return _untagged(value, known) if TAG in value else value

    return json.JSONDecoder(object_pairs_hook=read, parse_float=_float, parse_constant=_refuse_constant)


def _untagged(value: dict[str, Any], known: Known) -> object:
    tag = value[TAG]
    payload_type, read = _READERS.get(tag, _UNKNOWN) if isinstance(tag, str) else _UNKNOWN
    if payload_type is None:
        raise UnreadableValue(f"unknown tag {ascii(tag)[:40]}; was it written by a newer version?")
    payload = value.get(PAYLOAD)
    if value.keys() != (_ENUM_FIELDS if tag == "enum" else _FIELDS) or not isinstance(payload, payload_type):
        raise UnreadableValue(f"malformed {tag}")
    try:
        return _named(value[ENUM_NAME], payload, known) if tag == "enum" else read(payload)
    except UnreadableValue:
        raise
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UnreadableValue(f"malformed {tag}") from error


def _float(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _refuse_constant(text)


def _refuse_constant(_: str) -> NoReturn:
    raise UnreadableValue("a number is not finite")


def _named(name: Any, payload: Any, known: Known) -> object:
    if is_known(name) or not isinstance(name, str):
        return restore(name, payload)
    if not name.startswith("["):
        return known(name, "", None, payload)
    if name.endswith('"]'):
        cls, shape = _parsed(name)
        return _zoned(payload, shape) if cls == ZONE else known(cls, shape, {}, payload)
    cls, shape, more = _decode(name, decoder_for(known))
    if not (isinstance(cls, str) and isinstance(shape, str) and isinstance(more, dict)):
        raise TypeError("not the name of a class")
    return known(cls, shape, more, payload)


@lru_cache(maxsize=4096)
def _parsed(name: str) -> tuple[str, str]:
    cls, shape = json.loads(name)
    if not (isinstance(cls, str) and isinstance(shape, str)):
        raise TypeError("not the name of a class")
    return cls, shape


def _zoned(value: datetime, key: str) -> datetime:
    try:
        zone = ZoneInfo(key)
    except Exception as error:
        raise UnreadableValue(f"this machine does not know the time zone {ascii(key)[:60]}; install tzdata") from error
    moved = value.replace(tzinfo=zone)
    # The rules of a zone may have changed meanwhile: the instant stays.
    return moved if moved.utcoffset() == value.utcoffset() else value.astimezone(zone)


def _view(_name: str, _shape: str, _more: dict[str, Any] | None, payload: Any) -> Any:
    return payload


def _view_for_people(_name: str, _shape: str, more: dict[str, Any] | None, payload: Any) -> Any:
    hidden = (more or {}).get("hidden", ())
    if hidden is True:  # a root model's only field, which may be a dict
        return HIDDEN
    if isinstance(payload, dict):
        return {key: HIDDEN if key in hidden else part for key, part in payload.items()}
    return HIDDEN if hidden else payload


def _clock(kind: type[datetime | time]) -> Callable[[str], object]:
    return lambda payload: kind.fromisoformat(payload.removesuffix(FOLD)).replace(fold=payload.endswith(FOLD))


def _bytes(payload: str) -> bytes:
    return b64decode(payload, validate=True)


def _decimal(payload: str) -> Decimal:
    value = Decimal(payload)
    if not value.is_finite():
        raise ValueError("not finite")
    return value


def _timedelta(payload: list[Any]) -> timedelta:
    days, seconds, microseconds = payload
    return timedelta(days, seconds, microseconds)


def _distinct(build: Callable[[list[Any]], Any]) -> Callable[[list[Any]], object]:
    def read(payload: list[Any]) -> object:
        value = build(payload)
        if len(value) != len(payload):
            raise ValueError("items that are equal")
        return value

    return read


def _dict(payload: list[Any]) -> dict[Any, Any]:
    return dict(map(_pair, payload))


def _pair(payload: object) -> tuple[Any, Any]:
    if not isinstance(payload, list):  # a text of two letters would unpack as well
        raise TypeError("not a pair")
    key, item = payload
    return key, item


_FIELDS = {TAG, PAYLOAD}
_ENUM_FIELDS = {TAG, ENUM_NAME, PAYLOAD}
_UNKNOWN: tuple[None, Callable[[Any], object]] = (None, _refuse_constant)
_READERS: dict[str, tuple[type | None, Callable[[Any], object]]] = {
    "str": (str, lambda payload: _bytes(payload).decode("utf-8", "surrogatepass")),
    "dict": (list, _distinct(_dict)),
    "tuple": (list, tuple),
    "set": (list, _distinct(set)),
    "frozenset": (list, _distinct(frozenset)),
    "datetime": (str, _clock(datetime)),
    "date": (str, date.fromisoformat),
    "time": (str, _clock(time)),
    "timedelta": (list, _timedelta),
    "uuid": (str, UUID),
    "decimal": (str, _decimal),
    "bytes": (str, _bytes),
    "path": (str, Path),
    "enum": (object, _refuse_constant),
}
_decoder, _shown = decoder_for(_view), decoder_for(_view_for_people)
