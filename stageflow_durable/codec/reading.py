"""From tagged JSON text to values. The text is data: nothing is imported or called that a fixed table does not name."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn
from uuid import UUID

from stageflow_durable.codec.enums import restore
from stageflow_durable.codec.plain import MAX_DEPTH
from stageflow_durable.codec.writing import ENUM_NAME, FOLD, PAYLOAD, TAG
from stageflow_durable.errors import Terminal

_DEEPEST_TEXT = 4 * MAX_DEPTH + 8  # a dict written as pairs under a tag, with an enum around, nests four times a level


class UnreadableValue(Terminal, ValueError):
    """A stored text is not what ``encode`` writes: damaged, from elsewhere, or from a newer version."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"stored value cannot be read: {problem}")


def decode(text: str) -> Any:
    """Return the value that ``encode`` wrote as ``text``.

    Dicts and lists are plain; tagged types are restored; models and dataclasses are dicts of their fields; an enum
    that ``register_enum`` does not know is its value; an aware ``datetime`` has its offset, not the name of its zone.
    Raises :class:`UnreadableValue` for what ``encode`` does not write: text that is not JSON, NaN and infinity, a key
    twice, an unknown tag or a payload that does not fit it, too deep nesting, integers beyond Python's limit of
    digits.
    """
    _require_shallow(text)
    try:
        return _decoder.decode(text)
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


def _object(pairs: list[tuple[str, Any]]) -> Any:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise UnreadableValue("an object has a key twice")
    return _untagged(value) if TAG in value else value


def _untagged(value: dict[str, Any]) -> object:
    tag = value[TAG]
    payload_type, read = _READERS.get(tag, _UNKNOWN) if isinstance(tag, str) else _UNKNOWN
    if payload_type is None:
        raise UnreadableValue(f"unknown tag {ascii(tag)[:40]}; was it written by a newer version?")
    payload = value.get(PAYLOAD)
    if value.keys() != (_ENUM_FIELDS if tag == "enum" else _FIELDS) or not isinstance(payload, payload_type):
        raise UnreadableValue(f"malformed {tag}")
    try:
        return read(value if tag == "enum" else payload)
    except (ValueError, TypeError, ArithmeticError) as error:
        raise UnreadableValue(f"malformed {tag}") from error


def _float(text: str) -> float:
    value = float(text)
    return value if isfinite(value) else _refuse_constant(text)


def _refuse_constant(_: str) -> NoReturn:
    raise UnreadableValue("a number is not finite")


def _enum(value: dict[str, Any]) -> object:
    return restore(value[ENUM_NAME], value[PAYLOAD])


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
    "enum": (object, _enum),
}
_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_refuse_constant)
