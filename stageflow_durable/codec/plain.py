"""From what a stage returns to plain values: models by their fields, subclasses by their base, the rest refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from stageflow_durable.errors import UnsavableValue

MAX_DEPTH = 100
"""How many containers may stand inside each other."""

_KEY = None  # the step of a path that leads to a dict's key or a set's item, which have no name of their own
_LONGEST_PATH = 200
_LONGEST_KEY = 60
_SURE_BITS = 2_000  # Python writes 640 digits whatever its limit on integer texts is; beyond, the limit is asked

# Where the walk stands: (the trail of the holder, the key inside it, the holder), None at the root.
_Trail: TypeAlias = "tuple[_Trail, object, object] | None"
_Rule: TypeAlias = Callable[[Any, _Trail, int], object]


def plain(value: object, root: str = "value") -> Any:
    """Return ``value`` as it will be read back: fresh dicts, lists, tuples, sets, and atoms of exactly the saved types.

    Pydantic models (anything with ``model_dump``) and dataclasses become dicts of their fields, by field name, computed
    fields left out; subclasses (``OrderedDict``, named tuples, of ``str``) become their base. Enum members stay.
    Raises :class:`UnsavableValue` naming the path below ``root``: other types, NaN and infinity, cycles, depth over
    ``MAX_DEPTH``, integers beyond Python's limit of digits, items of sets and keys that would not stay distinct.
    """
    try:
        return _plain(value, None, MAX_DEPTH)
    except _Refused as refused:
        raise UnsavableValue(_path(root, refused.trail), refused.kind, refused.hint) from refused.__cause__


def step(key: object) -> str:
    """Return how a path names the way into ``key``: ``.name``, ``[2]`` or ``['odd name']``."""
    if isinstance(key, str) and len(key) <= _LONGEST_KEY and key.isidentifier():
        return f".{key}"
    if isinstance(key, str | int):
        return f"[{_shortened(ascii(key), _LONGEST_KEY)}]"
    return "[…]"


class _Refused(Exception):
    """Carries the trail to where the walk stopped up to ``plain``, which knows the root's name."""

    def __init__(self, trail: _Trail, kind: str, hint: str = "") -> None:
        self.trail, self.kind, self.hint = trail, kind, hint


def _plain(value: object, trail: _Trail, room: int) -> object:
    kind = type(value)
    if kind in _ATOMS:
        return value
    return (_RULES.get(kind) or _rule_for(value))(value, trail, room)


def _rule_for(value: object) -> _Rule:
    """Find the rule of a type that is not exactly one of ours; the order matters: an enum may be a str too."""
    if isinstance(value, Enum):
        return _enum
    if not isinstance(value, type):
        if callable(getattr(type(value), "model_dump", None)):
            return _model
        if dataclasses.is_dataclass(value):
            return _dataclass
    return next((rule for base, rule in _BASES if isinstance(value, base)), _refuse)


def _refuse(value: object, trail: _Trail, _: int) -> NoReturn:
    raise _Refused(trail, _named(value), "turn it into plain data first")


def _int(value: int, trail: _Trail, _: int) -> int:
    exact = int.__int__(value)
    if exact.bit_length() > _SURE_BITS:
        try:
            str(exact)
        except ValueError as error:
            raise _Refused(trail, f"an integer of {exact.bit_length()} bits", "save it as bytes or text") from error
    return exact


def _float(value: float, trail: _Trail, _: int) -> float:
    if not isfinite(value):
        raise _Refused(trail, repr(float.__float__(value)), "use None for a number that is missing")
    return float.__float__(value)


def _decimal(value: Decimal, trail: _Trail, _: int) -> Decimal:
    if not value.is_finite():
        raise _Refused(trail, f"Decimal({str(value)!r})", "use None for a number that is missing")
    return Decimal(value)


def _time(value: time, trail: _Trail, _: int) -> time:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise _Refused(trail, "a time whose zone has no offset without a date", "use a datetime, or a fixed offset")
    return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)


def _enum(value: Enum, trail: _Trail, room: int) -> Enum:
    saved = _plain(value.value, (trail, "value", value), room)
    try:
        found = type(value)(saved)
    except Exception as error:  # an enum's own lookup may raise what it likes
        raise _Refused(trail, _named(value), "what is saved of its value does not lead back to the member") from error
    if found != value:
        raise _Refused(trail, _named(value), "what is saved of its value leads to another member")
    return value


def _model(value: Any, trail: _Trail, room: int) -> object:
    try:
        fields = value.model_dump(round_trip=True)
    except Exception as error:  # a model's serializers are the application's code
        raise _Refused(trail, _named(value), f"model_dump raised {type(error).__name__}") from error
    return _plain(fields, trail, _entered(room, value, trail))


def _dataclass(value: Any, trail: _Trail, room: int) -> dict[str, object]:
    room = _entered(room, value, trail)
    names = [field.name for field in dataclasses.fields(value)]
    return {name: _plain(_field(value, name, trail), (trail, name, value), room) for name in names}


def _field(value: object, name: str, trail: _Trail) -> object:
    try:
        return getattr(value, name)
    except AttributeError as error:
        raise _Refused((trail, name, value), "a field that was never set") from error


def _dict(value: dict[Any, object], trail: _Trail, room: int) -> dict[Any, object]:
    room = _entered(room, value, trail)
    keys = [key if type(key) is str else _plain(key, (trail, _KEY, value), room) for key in value]
    if not _TEXT.issuperset(map(type, keys)):
        _require_distinct(keys, trail, "a dict whose keys are not distinct once saved", "use a list of pairs")
    return dict(zip(keys, [_plain(item, (trail, key, value), room) for key, item in value.items()], strict=True))


def _list(value: list[object], trail: _Trail, room: int) -> list[object]:
    return list(_items(enumerate(value), value, trail, room))


def _tuple(value: tuple[object, ...], trail: _Trail, room: int) -> tuple[object, ...]:
    return tuple(_items(enumerate(value), value, trail, room))


def _set(value: set[object] | frozenset[object], trail: _Trail, room: int) -> set[object] | frozenset[object]:
    items = list(_items(((_KEY, item) for item in value), value, trail, room))
    _require_distinct(items, trail, "a set whose items are not distinct once saved", "use a list")
    return set(items) if isinstance(value, set) else frozenset(items)


def _items(pairs: Iterable[tuple[object, object]], holder: object, trail: _Trail, room: int) -> Iterator[object]:
    room = _entered(room, holder, trail)
    for key, item in pairs:
        yield _plain(item, (trail, key, holder), room)


def _require_distinct(items: Collection[object], trail: _Trail, kind: str, hint: str) -> None:
    # An enum that the reader does not know comes back as its value: what is distinct here must be so there.
    try:
        distinct = len({_without_enums(item) for item in items}) == len(items)
    except TypeError:
        distinct = False
    if not distinct:
        raise _Refused(trail, kind, hint)


def _without_enums(value: object) -> object:
    if isinstance(value, Enum):
        return _without_enums(value.value)
    if isinstance(value, tuple):
        return tuple(map(_without_enums, value))
    return frozenset(map(_without_enums, value)) if isinstance(value, frozenset) else value


def _entered(room: int, holder: object, trail: _Trail) -> int:
    if room > 0:
        return room - 1
    trails = list(_from_root((trail, None, holder)))
    seen: set[int] = set()
    for above, _, ancestor in trails:
        if id(ancestor) in seen:
            raise _Refused(above, "a reference to a container that it is inside of")
        seen.add(id(ancestor))
    raise _Refused(trail, f"nesting deeper than {MAX_DEPTH} containers")


def _from_root(trail: _Trail) -> Iterator[tuple[_Trail, object, object]]:
    if trail is not None:
        yield from _from_root(trail[0])
        yield trail


def _path(root: str, trail: _Trail) -> str:
    return _shortened(root + "".join(step(key) for _, key, _ in _from_root(trail)), _LONGEST_PATH)


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"


def _named(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _copied(copy: Callable[[Any], object]) -> _Rule:
    return lambda value, _, __: copy(value)


_TEXT = frozenset({str})
_ATOMS = frozenset({str, bool, type(None), datetime, date, timedelta, UUID, bytes, type(Path())})
_RULES: dict[type, _Rule] = {int: _int, float: _float, dict: _dict, list: _list, tuple: _tuple}
_BASES: tuple[tuple[type, _Rule], ...] = (
    (dict, _dict),
    (list, _list),
    (tuple, _tuple),
    (set, _set),
    (frozenset, _set),
    (int, _int),
    (float, _float),
    (Decimal, _decimal),
    (time, _time),
    (str, _copied(str.__str__)),
    (bytes, _copied(bytes)),
    (bytearray, _copied(bytes)),
    (datetime, _copied(lambda value: datetime.combine(datetime.date(value), datetime.timetz(value)))),
    (date, _copied(lambda value: date(value.year, value.month, value.day))),
    (timedelta, _copied(lambda value: timedelta(value.days, value.seconds, value.microseconds))),
    (UUID, _copied(lambda value: UUID(int=value.int))),
    (Path, _copied(Path)),
)
