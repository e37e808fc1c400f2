"""One text for equal parameters, whoever sends them: what idempotency keys compare.

Equal are: any order of keys; ``1`` and ``1.0``; a list and a tuple; an enum member and its value; one instant in two
offsets; ``Decimal("1.0")`` and ``Decimal("1.00")``. Different are: ``1`` and ``True``; ``1`` and ``"1"``; integers
however big that differ by one; a decimal and a float. So what was read back has the fingerprint of what was saved,
whichever enums are registered where.

Of objects everything counts that is saved: excluded fields, which fields were set, classes, private attributes. What
a ``default_factory`` made does not: nobody gave it, and a repeated request would come with another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from datetime import UTC, datetime, time
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from itertools import islice, zip_longest
from typing import Any, TypeGuard

from stageflow_durable.codec.classes import Classes
from stageflow_durable.codec.frozen import FrozenDict, FrozenList
from stageflow_durable.codec.kinds import Kind
from stageflow_durable.codec.paths import step
from stageflow_durable.codec.plain import SavedObject, tree
from stageflow_durable.codec.reading import decode_by
from stageflow_durable.codec.versions import Fingerprint, first_plain
from stageflow_durable.codec.writing import (
    JSON_ATOMS,
    OBJECT,
    PAYLOAD,
    TAG,
    VALIDATED,
    Marked,
    is_object,
    json_writer,
    marked,
    quick_object,
    quick_text,
    tagged,
    write_json,
)

_MOST_FIELDS = 10
_MISSING = object()
_WHOLE = "value"
_WHOLE_FLOAT = re.compile(r"[0-9](\.0([,}\]]|$)|e\+)")  # as JSON has it; in a text it does no harm

_MARKED = f'{{"{TAG}":"{OBJECT}"'
_SEEN_BEFORE = frozenset({Kind.MODEL, Kind.DATACLASS})

_write_sorted = json_writer(sort_keys=True)


def canonical(value: object, classes: Classes | None = None) -> bytes:
    """Return canonical JSON (ASCII, sorted keys, no spaces) for ``value``; equal bytes mean equal parameters.

    Accepts what ``encode`` accepts and raises :class:`UnsavableValue` likewise.
    """
    text = quick_text(value, JSON_ATOMS, _write_sorted)
    return _canonical(tree(value, classes=classes) if text is None else value, text, classes).encode("ascii")


def fingerprint(value: object, classes: Classes | None = None) -> Fingerprint:
    """Return the SHA-256 of ``canonical(value)`` in 64 characters, with the version of how it was made."""
    return _fingerprint(canonical(value, classes).decode("ascii"), value)


def encode_and_fingerprint(
    value: object, classes: Classes | None = None, root: str = "value"
) -> tuple[str, Fingerprint]:
    """Return ``encode(value)`` and ``fingerprint(value)``: what both look for is looked for once."""
    text = quick_text(value, JSON_ATOMS, write_json)
    if text is not None:
        return marked(text, classes), _fingerprint(_canonical(value, _write_sorted(value), classes), value)
    saved = tree(value, root, classes)
    text = quick_object(saved, JSON_ATOMS) if _is_seen_whole(saved, classes) else None
    if text is not None:
        view = saved.parts.view
        return marked(text, classes), _fingerprint(_canonical(view, _write_sorted(view), None), value)
    canon = _canonical(saved, None, classes)
    return marked(write_json(tagged(saved)), classes), _fingerprint(canon, value)


def _fingerprint(canon: str, value: object) -> Fingerprint:
    def first() -> str:
        return _digest(_write_sorted(tagged(_settled(first_plain(value)))))

    return Fingerprint.of(_digest(canon), first, marked=_MARKED in canon)


def _digest(canon: str) -> str:
    return sha256(canon.encode("ascii")).hexdigest()


def _canonical(saved: object, text: str | None, classes: Classes | None) -> str:
    """``saved``: a tree; ``text``: of a value that is JSON already, sorted."""
    if text is None:
        return _write_sorted(tagged(_root(saved, classes)))
    return _write_sorted(_settled(saved)) if _may_be_whole(text) else text


def _may_be_whole(text: str) -> bool:
    """Whether a float in it may have to become an integer; the regular expression costs what all the rest does."""
    return (".0" in text or "e+" in text) and _WHOLE_FLOAT.search(text) is not None


def differing_fields(a: object, b: object) -> tuple[str, ...]:
    """Return the paths (``customer.lines[2].sku``) at which ``a`` and ``b`` differ, sorted, at most 10.

    A field that only one of them has is named once, not by what is below it; ``value`` is named when the two share
    nothing. Empty exactly when ``canonical`` is equal. Raises :class:`UnsavableValue` as ``canonical`` does.
    """
    return _named(_tree(a), _tree(b))


def differing_texts(before: str, given: str) -> tuple[str, ...]:
    """The same of what ``encode`` wrote. Raises :class:`UnreadableValue` as ``decode`` does."""
    return _named(*(tagged(_settled(decode_by(text, _told))) for text in (before, given)))


def _named(a: object, b: object) -> tuple[str, ...]:
    return tuple(islice(sorted(set(_differences(a, b, ""))), _MOST_FIELDS))


def _told(name: str, _: str, more: dict[str, Any] | None, payload: Any) -> Any:
    if more is None or name == VALIDATED:
        return payload
    held = {**(more.get("private") or {}), **(more.get("rest") or {})}
    unset = {str(field): True for field in more.get("unset", ())}
    return Marked({"fields": payload, "of": name.rpartition(":")[2], "unset": unset, "held": held})


def _differences(a: object, b: object, path: str) -> Iterator[str]:
    if _is_marked(a) or _is_marked(b):
        yield from _differences_of_objects(a, b, path)
    elif _is_object(a) and _is_object(b):
        for key in a.keys() | b.keys():
            yield from _differences(a.get(key, _MISSING), b.get(key, _MISSING), path + step(key))
    elif isinstance(a, list) and isinstance(b, list):
        for index, (left, right) in enumerate(zip_longest(a, b, fillvalue=_MISSING)):
            yield from _differences(left, right, path + step(index))
    elif a is _MISSING or b is _MISSING or _write_sorted(a) != _write_sorted(b):
        yield path.removeprefix(".") or _WHOLE


def _is_marked(saved: object) -> TypeGuard[dict[str, dict[str, Any]]]:
    return isinstance(saved, dict) and saved.get(TAG) == OBJECT


def _differences_of_objects(a: object, b: object, path: str) -> Iterator[str]:
    sides: list[dict[str, Any]] = [one[PAYLOAD] if _is_marked(one) else {"fields": one} for one in (a, b)]
    left, right = sides
    unset, also = left.get("unset", {}), right.get("unset", {})
    # Whatever nobody gave to either has its default, and that may have been made by a function.
    ours, theirs = (_without(one["fields"], unset.keys() & also.keys()) for one in (left, right))
    found = list(_differences(ours, theirs, path))
    if _is_marked(a) and _is_marked(b):
        for one, other in ((unset, also), (left.get("held", {}), right.get("held", {}))):
            names = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
            found += [(path + step(name)).removeprefix(".") for name in names]
        if left.get("of") != right.get("of"):
            found.append(path.removeprefix(".") or _WHOLE)
    elif not found:
        found.append(path.removeprefix(".") or _WHOLE)
    yield from found


def _without(fields: object, names: Collection[str]) -> object:
    return {key: part for key, part in fields.items() if key not in names} if _is_object(fields) else fields


def _is_object(tree: object) -> TypeGuard[dict[str, object]]:
    return isinstance(tree, dict) and TAG not in tree


def _tree(value: object) -> object:
    return tagged(_root(tree(value), None))


def _is_seen_whole(saved: object, classes: Classes | None) -> bool:
    seen = type(saved) is SavedObject and saved.make.kind in _SEEN_BEFORE
    return seen and (classes is None or _is_declared(saved, classes))


def _is_declared(saved: object, classes: Classes) -> bool:
    return type(saved) is SavedObject and saved.cls is classes.declared


def _root(saved: object, classes: Classes | None) -> object:
    """The class of the whole counts only where it is not the declared one: a class may be renamed."""
    if type(saved) is not SavedObject:
        return _settled(saved)
    expected = classes is None or _is_declared(saved, classes)
    return _object(saved, of=None if expected else saved.cls.__qualname__)


def _settled(value: Any) -> object:
    """Choose one value of those that count as equal."""
    if isinstance(value, Enum):
        return _settled(value.value)
    settle = _SETTLERS.get(type(value))
    return value if settle is None else settle(value)


def _settled_key(value: Any) -> object:
    """The same where the result must be hashable: tuples stay, since no list can be meant."""
    if isinstance(value, SavedObject):
        return (value.cls.__qualname__, _settled_key(value.parts.view))
    if isinstance(value, Enum):
        return _settled_key(value.value)
    if isinstance(value, tuple):
        return tuple(map(_settled_key, value))
    return _settled(value)


def _object(saved: SavedObject, of: str | None) -> object:
    """The fields, as the version before had them; with a mark where there is more than that version saw."""
    parts, make = saved.parts, saved.make
    view = parts.view
    generated = [name for name in parts.unset if name in make.generated]
    if generated:
        view = {name: part for name, part in view.items() if name not in generated}
    private = {name: part for name, part in (parts.private or {}).items() if name not in make.generated}
    marks: dict[str, object] = {"of": of} if of else {}
    if parts.unset:
        marks["unset"] = dict.fromkeys(parts.unset, True)
    if private or parts.rest:
        marks["held"] = _dict({**private, **(parts.rest or {})})
    plainly = make.kind in _SEEN_BEFORE and not marks and not make.hidden
    fields = _settled(view)
    return fields if plainly else Marked({"fields": fields, **marks})


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
    SavedObject: lambda value: _object(value, value.cls.__qualname__),
    Marked: lambda value: Marked({key: _settled(item) for key, item in value.items()}),
}
