"""One text for equal parameters, whoever sends them: what idempotency keys compare.

Equal are: any order of keys; ``1`` and ``1.0``; a list and a tuple; an enum member and its value; one instant in two
offsets; ``Decimal("1.0")`` and ``Decimal("1.00")``. Different are: ``1`` and ``True``; ``1`` and ``"1"``; integers
however big that differ by one; a decimal and a float. So what was read back has the fingerprint of what was saved,
whichever enums are registered where.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from itertools import islice, zip_longest
from typing import Any, TypeGuard

from stageflow_durable.codec.frozen import FrozenDict, FrozenList
from stageflow_durable.codec.plain import plain, step
from stageflow_durable.codec.writing import (
    JSON_ATOMS,
    TAG,
    encode,
    is_object,
    json_writer,
    quick_text,
    tagged,
    write_json,
)

_MOST_FIELDS = 10
_MISSING = object()
_WHOLE = "value"
_WHOLE_FLOAT = re.compile(r"[0-9](\.0([,}\]]|$)|e\+)")  # as JSON has it; in a text it does no harm

_write_sorted = json_writer(sort_keys=True)


def canonical(value: object) -> bytes:
    """Return canonical JSON (ASCII, sorted keys, no spaces) for ``value``; equal bytes mean equal parameters.

    Accepts what ``encode`` accepts and raises :class:`UnsavableValue` likewise.
    """
    text = quick_text(value, JSON_ATOMS, _write_sorted)
    return _canonical(value, text).encode("ascii")


def fingerprint(value: object) -> str:
    """Return the SHA-256 of ``canonical(value)``, 64 hexadecimal digits."""
    return sha256(canonical(value)).hexdigest()


def encode_and_fingerprint(value: object) -> tuple[str, str]:
    """Return ``encode(value)`` and ``fingerprint(value)``: what both look for is looked for once."""
    text = quick_text(value, JSON_ATOMS, write_json)
    canon = _canonical(value, None if text is None else _write_sorted(value))
    return encode(value) if text is None else text, sha256(canon.encode("ascii")).hexdigest()


def _canonical(value: object, text: str | None) -> str:
    """``text``: of a value that is JSON already, sorted."""
    if text is None:
        return _write_sorted(_tree(value))
    return _write_sorted(_settled(value)) if _may_be_whole(text) else text


def _may_be_whole(text: str) -> bool:
    """Whether a float in it may have to become an integer; the regular expression costs what all the rest does."""
    return (".0" in text or "e+" in text) and _WHOLE_FLOAT.search(text) is not None


def differing_fields(a: object, b: object) -> tuple[str, ...]:
    """Return the paths (``customer.lines[2].sku``) at which ``a`` and ``b`` differ, sorted, at most 10.

    A field that only one of them has is named once, not by what is below it; ``value`` is named when the two share
    nothing. Empty exactly when ``canonical`` is equal. Raises :class:`UnsavableValue` as ``canonical`` does.
    """
    return tuple(islice(sorted(_differences(_tree(a), _tree(b), "")), _MOST_FIELDS))


def _differences(a: object, b: object, path: str) -> Iterator[str]:
    if _is_object(a) and _is_object(b):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key, _MISSING), b.get(key, _MISSING), path + step(key))
    elif isinstance(a, list) and isinstance(b, list):
        for index, (left, right) in enumerate(zip_longest(a, b, fillvalue=_MISSING)):
            yield from _differences(left, right, path + step(index))
    elif a is _MISSING or b is _MISSING or _write_sorted(a) != _write_sorted(b):
        yield path.removeprefix(".") or _WHOLE


def _is_object(tree: object) -> TypeGuard[dict[str, object]]:
    return isinstance(tree, dict) and TAG not in tree


def _tree(value: object) -> object:
    return tagged(_settled(plain(value)))


def _settled(value: Any) -> object:
    """Choose one value of those that count as equal."""
    if isinstance(value, Enum):
        return _settled(value.value)
    settle = _SETTLERS.get(type(value))
    return value if settle is None else settle(value)


def _settled_key(value: Any) -> object:
    """The same where the result must be hashable: tuples stay, since no list can be meant."""
    if isinstance(value, Enum):
        return _settled_key(value.value)
    if isinstance(value, tuple):
        return tuple(map(_settled_key, value))
    return _settled(value)


def _dict(value: dict[Any, object]) -> dict[object, object]:
    if is_object(value):
        return {key: _settled(item) for key, item in value.items()}
    pairs = ((_settled_key(key), _settled(item)) for key, item in value.items())
    return dict(sorted(pairs, key=lambda pair: _write_sorted(tagged(pair[0]))))  # pairs under a tag keep their order


def _float(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def _datetime(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC) if value.utcoffset() is not None else value.replace(fold=0)
    except OverflowError:  # an offset at the very edge of the calendar
        return value


def _decimal(value: Decimal) -> Decimal:
    # Decimal.normalize would round to the context's precision.
    sign, digits, exponent = value.as_tuple()
    kept = "".join(map(str, digits)).rstrip("0")
    if not kept:
        return Decimal(0)
    return Decimal((sign, tuple(map(int, kept)), int(exponent) + len(digits) - len(kept)))


def _set(value: set[object] | frozenset[object]) -> frozenset[object]:
    return frozenset(map(_settled_key, value))


def _list(value: list[object] | tuple[object, ...]) -> list[object]:
    return list(map(_settled, value))


_SETTLERS: dict[type, Callable[[Any], object]] = {
    dict: _dict,
    FrozenDict: _dict,
    list: _list,
    FrozenList: _list,
    tuple: _list,
    set: _set,
    frozenset: _set,
    float: _float,
    datetime: _datetime,
    time: lambda value: value.replace(fold=0),
    Decimal: _decimal,
}
