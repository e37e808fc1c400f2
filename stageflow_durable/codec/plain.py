"""From what a stage returns to plain values: objects by their state, what cannot come back as it was refused.

The walk is *loose* where nothing is declared: enums stay, subclasses of standard types that hold nothing more become
their base. It is *strict* within an object and within a declared type: what is there has to come back of the same
class, so that class has to be among those that the declaration leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias
from uuid import UUID
from zoneinfo import ZoneInfo

from stageflow_durable.codec.classes import Classes, classes_of
from stageflow_durable.codec.enums import is_registered
from stageflow_durable.codec.frozen import FrozenDict, FrozenList, FrozenSet
from stageflow_durable.codec.kinds import Kind, Make, make_of, state_of
from stageflow_durable.codec.objects import Missing, Parts, base_value, put_together, same_parts, take_apart
from stageflow_durable.codec.paths import KEY, MAX_DEPTH, Refused, Trail, entered, named, path
from stageflow_durable.codec.versions import Fingerprint
from stageflow_durable.errors import UnsavableValue

_SURE_BITS = 2_000  # Python writes 640 digits whatever its limit on integer texts is; beyond, the limit is asked

_Rule: TypeAlias = Callable[[Any, Trail, int, "Classes | None"], object]

_proved: set[type] = set()


class SavedObject(NamedTuple):
    """An object on its way to text: its class, and its parts as plain values."""

    cls: type
    make: Make
    parts: Parts


def tree(value: object, root: str = "value", classes: Classes | None = None) -> Any:
    """Return ``value`` as it is written: fresh dicts, lists, tuples, sets, atoms of exactly the saved types, enum
    members, and a :class:`SavedObject` for each object.

    ``classes``: those of the declared type of ``value``; the walk is strict then. Raises :class:`UnsavableValue`
    naming the path below ``root``: other types, what would not come back as it is, NaN and infinity, cycles, depth
    over ``MAX_DEPTH``, integers beyond Python's limit of digits, items of sets and keys that would not stay distinct.
    """
    try:
        return _tree(value, None, MAX_DEPTH, classes)
    except Refused as refused:
        raise UnsavableValue(path(root, refused.trail), refused.kind, refused.hint) from refused.__cause__


def plain(value: object, root: str = "value") -> Any:
    """Return ``value`` as it is read back where nothing is declared: Pydantic models and dataclasses are dicts of
    their fields, by field name, computed fields left out. Enum members stay. Raises :class:`UnsavableValue` as
    :func:`tree` does.
    """
    return viewed(tree(value, root))


def viewed(saved: Any) -> Any:
    """Return a tree without objects: each is what it is to those who do not know its class."""
    kind = type(saved)
    if kind is dict:
        return {viewed(key): viewed(item) for key, item in saved.items()}
    if kind in _CONTAINERS:
        return kind(map(viewed, saved))
    return viewed(saved.parts.view) if kind is SavedObject else saved


def _tree(value: object, trail: Trail, room: int, classes: Classes | None) -> object:
    kind = type(value)
    if kind in _ATOMS:
        return value
    return (_RULES.get(kind) or _rule_for(value))(value, trail, room, classes)


def _rule_for(value: object) -> _Rule:
    cls: Any = type(value)
    rule: _Rule = _refuse
    if isinstance(value, Enum):
        rule = _enum
    elif not isinstance(value, type) and make_of(cls) is not None:
        rule = _object
    elif callable(getattr(cls, "model_dump", None)):
        rule = _dumped
    return rule


def _refuse(value: object, trail: Trail, *_: object) -> NoReturn:
    if type(value).__name__ in ("SecretStr", "SecretBytes", "Secret"):
        raise Refused(trail, named(value), "keep the secret in a vault, and here what it is called there")
    raise Refused(trail, named(value), "turn it into plain data first")


# --- atoms ------------------------------------------------------------------------------------------------------------


def _int(value: int, trail: Trail, *_: object) -> int:
    if value.bit_length() > _SURE_BITS:
        try:
            str(value)
        except ValueError as error:
            raise Refused(trail, f"an integer of {value.bit_length()} bits", "save it as bytes or text") from error
    return value


def _float(value: float, trail: Trail, *_: object) -> float:
    if not isfinite(value):
        raise Refused(trail, repr(value), "use None for a number that is missing")
    return value


def _decimal(value: Decimal, trail: Trail, *_: object) -> Decimal:
    if not value.is_finite():
        raise Refused(trail, f"Decimal({str(value)!r})", "use None for a number that is missing")
    return value


def _time(value: time, trail: Trail, *_: object) -> time:
    if value.tzinfo is not None and value.utcoffset() is None:
        raise Refused(trail, "a time whose zone has no offset without a date", "use a datetime, or a fixed offset")
    return value


def _datetime(value: datetime, trail: Trail, *_: object) -> datetime:
    if not has_known_zone(value):
        zone = named(value.tzinfo)
        raise Refused(trail, f"a datetime in a zone of {zone}", "use zoneinfo.ZoneInfo, or .astimezone(UTC)")
    return value


def has_known_zone(value: datetime) -> bool:
    """Whether its zone can be saved: none, a name in the time zone database, or a fixed offset, of whatever class."""
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        return True
    if isinstance(zone, ZoneInfo):
        return type(zone) is ZoneInfo and zone.key is not None
    try:
        fixed = zone.utcoffset(None)
        return fixed is not None and fixed == value.utcoffset()
    except Exception:  # noqa: BLE001  # a zone of the application's, which may raise what it likes
        return False


def _enum(value: Enum, trail: Trail, room: int, classes: Classes | None) -> Enum:
    saved = viewed(_tree(value.value, (trail, "value", value), room, None))
    try:
        found = type(value)(saved)
    except Exception as error:  # an enum's own lookup may raise what it likes
        raise Refused(trail, named(value), "what is saved of its value does not lead back to the member") from error
    if found is not value and found != value:
        raise Refused(trail, named(value), "what is saved of its value leads to another member")
    if classes is not None and not classes.covers(type(value)) and not is_registered(type(value)):
        raise Refused(trail, named(value), f"{_OUT_OF_REACH}, or register_enum it")
    return value


# --- objects ----------------------------------------------------------------------------------------------------------

_OUT_OF_REACH = "the declared types do not lead to that class, so it could not be restored: name it in the annotation"


def _object(value: Any, trail: Trail, room: int, classes: Classes | None) -> object:
    cls: Any = type(value)
    make = make_of(cls)
    assert make is not None
    whole = make.kind in (Kind.MODEL, Kind.DATACLASS)
    if not whole and classes is None:
        return _based(value, make, trail, room)
    known = classes_of(cls) if classes is None else classes
    if not make.is_open:
        why = "what an extension module holds cannot be seen; turn it into plain data first"
        raise Refused(trail, named(value), why)
    if not known.covers(cls):
        raise Refused(trail, named(value), f"{_OUT_OF_REACH}, or give a value of the declared type")
    room = entered(room, value, trail) if whole else room
    try:
        parts = take_apart(value, make)
    except Missing as missing:
        raise Refused((trail, str(missing), value), "a field that was never set") from None
    except Exception as error:
        raise Refused(trail, named(value), "its parts cannot be told") from error
    _prove(cls, value, parts, trail)
    return SavedObject(cls, make, _trees(parts, value, trail, room, known, whole=whole and not make.is_root))


def _trees(parts: Parts, value: object, trail: Trail, room: int, known: Classes, *, whole: bool) -> Parts:
    view = parts.view
    if not whole:
        view = _tree(view, trail, room, known)
    elif not _ATOMS.issuperset(map(type, view.values())):
        view = {
            name: part if type(part) in _ATOMS else _tree(part, (trail, name, value), room, known)
            for name, part in view.items()
        }
    if parts.private is None and parts.rest is None:
        return Parts(view, parts.unset, parts.extra)
    hidden = [
        None if some is None else {name: _tree(part, (trail, name, value), room, known) for name, part in some.items()}
        for some in (parts.private, parts.rest)
    ]
    return Parts(view, parts.unset, parts.extra, *hidden)


def _prove(cls: Any, value: Any, parts: Parts, trail: Trail) -> None:
    """Of the first object of a class: that it can be made again from its parts. What they are is checked each time."""
    if cls in _proved:
        return
    try:
        again = put_together(cls, parts)
        make = make_of(cls)
        whole = type(again) is cls and make is not None and same_parts(take_apart(again, make), parts)
    except Exception as error:
        raise Refused(trail, named(value), "it cannot be made again from its fields") from error
    if not whole:
        raise Refused(trail, named(value), "made again from its fields it is another")
    _proved.add(cls)


def _based(value: Any, make: Make, trail: Trail, room: int) -> object:
    """A subclass of a standard type where nothing is declared: its base, when that is all there is to it."""
    if make.says_more or state_of(value, make):
        base = "a standard type" if make.base is None else make.base.__name__
        raise Refused(trail, named(value), f"it holds more than {base}; turn it into plain data first")
    try:
        base_ = base_value(value, make)
        same = bool(base_ == value)
    except Exception as error:
        raise Refused(trail, named(value), "turn it into plain data first") from error
    saved = _tree(base_, trail, room, None)
    if not same:
        raise Refused(trail, named(value), "what would be saved is not equal to it; turn it into plain data first")
    return saved


def _dumped(value: Any, trail: Trail, room: int, classes: Classes | None) -> object:
    if classes is not None:
        _refuse(value, trail)
    try:
        fields = value.model_dump(round_trip=True)
    except Exception as error:  # an application's own code
        raise Refused(trail, named(value), f"model_dump raised {type(error).__name__}") from error
    return _tree(fields, trail, entered(room, value, trail), None)


# --- containers -------------------------------------------------------------------------------------------------------


def _dict(value: dict[Any, object], trail: Trail, room: int, classes: Classes | None) -> dict[Any, object]:
    room = entered(room, value, trail)
    keys = [key if type(key) is str else _tree(key, (trail, KEY, value), room, classes) for key in value]
    if not _TEXT.issuperset(map(type, keys)):
        _require_distinct(keys, trail, "a dict whose keys are not distinct once saved", "use a list of pairs")
    items = [_tree(item, (trail, key, value), room, classes) for key, item in value.items()]
    return dict(zip(keys, items, strict=True))


def _list(value: list[object], trail: Trail, room: int, classes: Classes | None) -> list[object]:
    return list(_items(enumerate(value), value, trail, room, classes))


def _tuple(value: tuple[object, ...], trail: Trail, room: int, classes: Classes | None) -> tuple[object, ...]:
    return tuple(_items(enumerate(value), value, trail, room, classes))


def _set(
    value: set[object] | frozenset[object], trail: Trail, room: int, classes: Classes | None
) -> set[object] | frozenset[object]:
    items = list(_items(((KEY, item) for item in value), value, trail, room, classes))
    _require_distinct(items, trail, "a set whose items are not distinct once saved", "use a list")
    return set(items) if isinstance(value, set) else frozenset(items)


def _bytearray(value: bytearray, trail: Trail, _: int, classes: Classes | None) -> bytes:
    if classes is not None:
        raise Refused(trail, "bytearray", "use bytes")
    return bytes(value)


def _items(
    pairs: Iterable[tuple[object, object]], holder: object, trail: Trail, room: int, classes: Classes | None
) -> Iterator[object]:
    room = entered(room, holder, trail)
    for key, item in pairs:
        yield _tree(item, (trail, key, holder), room, classes)


def _require_distinct(items: Collection[object], trail: Trail, kind: str, hint: str) -> None:
    # An enum that the reader does not know comes back as its value: what is distinct here must be so there.
    try:
        distinct = len({_without_enums(viewed(item)) for item in items}) == len(items)
    except TypeError:
        distinct = False
    if not distinct:
        raise Refused(trail, kind, hint)


def _without_enums(value: object) -> object:
    if isinstance(value, Enum):
        return _without_enums(value.value)
    if isinstance(value, tuple):
        return tuple(map(_without_enums, value))
    return frozenset(map(_without_enums, value)) if isinstance(value, frozenset) else value


_TEXT = frozenset({str})
_CONTAINERS = frozenset({list, tuple, set, frozenset})
_ATOMS = frozenset({str, bool, type(None), date, timedelta, UUID, bytes, type(Path())})
_RULES: dict[type, _Rule] = {
    int: _int,
    float: _float,
    Decimal: _decimal,
    time: _time,
    datetime: _datetime,
    bytearray: _bytearray,
    dict: _dict,
    FrozenDict: _dict,
    list: _list,
    FrozenList: _list,
    tuple: _tuple,
    set: _set,
    frozenset: _set,
    FrozenSet: _set,
    Fingerprint: lambda value, *_: str.__str__(value),
}
