"""Objects by their state: taken apart without asking their serializers, put together without running their
validators, constructors or ``__post_init__``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from stageflow_durable.codec.kinds import COLLECTIONS, Kind, Make, make_of, state_of

_set = object.__setattr__


class Parts(NamedTuple):
    """What an object consists of. ``view``: what it is to those who do not know its class: the dict of its fields, or
    a value of its standard type. ``unset``: fields that nobody set, which have their defaults. ``extra``: names in
    ``view`` that are no fields. ``private``: Pydantic's private attributes, None where the class has none. ``rest``:
    attributes besides.
    """

    view: Any
    unset: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    private: dict[str, object] | None = None
    rest: dict[str, object] | None = None


class Missing(Exception):
    """A field was never set; carries its name."""


def take_apart(value: Any, make: Make) -> Parts:
    """The parts of an object, not copied. Raises Missing."""
    rest = state_of(value, make) or None
    if make.kind is Kind.MODEL:
        return _model(value, make, rest)
    if make.kind is Kind.DATACLASS:
        return Parts({name: _field(value, name) for name in make.fields}, rest=rest)
    return Parts(base_value(value, make), rest=rest)


def _model(value: Any, make: Make, rest: dict[str, object] | None) -> Parts:
    held, given = value.__dict__, value.__pydantic_fields_set__
    try:
        view = {name: held[name] for name in make.fields}
    except KeyError as error:
        raise Missing(str(error.args[0])) from None
    extra = value.__pydantic_extra__
    private = value.__pydantic_private__
    unset = () if given >= make.names else tuple([name for name in make.fields if name not in given])
    if make.is_root:
        return Parts(view["root"], unset, (), private, rest)
    if extra:
        unset += tuple([name for name in extra if name not in given])
        view |= extra
    return Parts(view, unset, tuple(extra or ()), private, rest)


def _field(value: object, name: str) -> object:
    try:
        return getattr(value, name)
    except AttributeError:
        raise Missing(name) from None


def fields_of(value: Any) -> dict[str, Any] | None:
    """The fields of a model or a dataclass, as they are; None for any other value, and for a root model. Raises
    Missing.
    """
    cls: Any = type(value)
    make = make_of(cls)
    if make is None or make.kind not in (Kind.MODEL, Kind.DATACLASS) or make.is_root:
        return None
    fields: dict[str, Any] = take_apart(value, make).view
    return fields


def base_value(value: Any, make: Make) -> Any:
    """The value of its standard type, by that type's own methods: a subclass may mean something else by them."""
    base: Any = make.base
    return _BASE_VALUES[base](value)


def put_together(cls: Any, parts: Parts) -> Any:
    """An object of ``cls`` that consists of ``parts``. Raises whatever stands in the way."""
    make = make_of(cls)
    assert make is not None
    if make.kind is Kind.MODEL:
        return _made_model(cls, make, parts)
    if make.kind is Kind.DATACLASS:
        made = object.__new__(cls)
        for name, part in parts.view.items():
            _set(made, name, part)
    else:
        made = _made_of_base(cls, make, parts.view)
    for name, part in (parts.rest or {}).items():
        _set(made, name, part)
    return made


def _made_model(cls: Any, make: Make, parts: Parts) -> Any:
    made = cls.__new__(cls)
    view = {"root": parts.view} if make.is_root else parts.view
    extra = {name: view[name] for name in parts.extra} if make.allows_extra else None
    fields = {name: part for name, part in view.items() if name not in parts.extra} if parts.extra else view
    _set(made, "__dict__", fields)
    _set(made, "__pydantic_fields_set__", set(view).difference(parts.unset))
    if not make.is_root:  # whose class says that it has none
        _set(made, "__pydantic_extra__", extra)
    if not make.is_root or parts.private is not None:
        _set(made, "__pydantic_private__", parts.private)
    for name, part in (parts.rest or {}).items():
        if name in make.slots:
            _set(made, name, part)
        else:
            fields[name] = part
    return made


def _made_of_base(cls: Any, make: Make, view: Any) -> Any:
    if cls in COLLECTIONS:
        return cls(view)
    base: Any = make.base
    if base not in _FILLERS:
        return _MAKERS[base](cls, view) if base in _MAKERS else base.__new__(cls, view)
    made = base.__new__(cls)
    _FILLERS[base](made, view)
    return made


def same_parts(one: Parts, other: Parts) -> bool:
    """Whether both consist of the same objects; of standard values, of equal ones."""
    if not isinstance(one.view, dict):
        return bool(type(one.view) is type(other.view) and one.view == other.view) and _same(one.rest, other.rest)
    rest = one._replace(view=None, private=None, rest=None) == other._replace(view=None, private=None, rest=None)
    pairs = ((one.view, other.view), (one.private, other.private), (one.rest, other.rest))
    return rest and all(_same(left, right) for left, right in pairs)


def _same(one: dict[str, object] | None, other: dict[str, object] | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.keys() == other.keys() and all(part is other[name] for name, part in one.items())


def _dict(value: Any) -> dict[Any, Any]:
    return dict(zip(dict.__iter__(value), dict.values(value), strict=True))


def _iterated(base: Any) -> Callable[[Any], Any]:
    def read(value: Iterable[Any]) -> Any:
        return base(base.__iter__(value))

    return read


def _datetime(value: Any) -> datetime:
    return datetime.combine(datetime.date(value), datetime.timetz(value))


def _date(value: Any) -> date:
    return date(date.year.__get__(value), date.month.__get__(value), date.day.__get__(value))


def _time(value: Any) -> time:
    return time(value.hour, value.minute, value.second, value.microsecond, value.tzinfo, fold=value.fold)


_DAYS, _SECONDS, _MICROSECONDS = timedelta.days, timedelta.seconds, timedelta.microseconds


def _timedelta(value: Any) -> timedelta:
    # A subclass may call something else its days: pendulum's are what is left when months are taken off.
    days, seconds, micro = (part.__get__(value) for part in (_DAYS, _SECONDS, _MICROSECONDS))
    return timedelta(days, seconds, micro)


_BASE_VALUES: dict[type, Callable[[Any], Any]] = {
    dict: _dict,
    **{base: _iterated(base) for base in (list, tuple, set, frozenset)},
    int: int.__int__,
    float: float.__float__,
    Decimal: Decimal,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    bytearray: bytes,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    UUID: lambda value: UUID(int=value.int),
    Path: Path,
    type(Path()): Path,
}

_FILLERS: dict[type, Callable[[Any, Any], object]] = {dict: dict.update, list: list.extend, set: set.update}


def _made_uuid(cls: Any, value: UUID) -> Any:
    made = object.__new__(cls)
    for name in ("int", "is_safe"):
        _set(made, name, getattr(value, name))
    return made


_MAKERS: dict[type, Callable[[Any, Any], Any]] = {
    datetime: lambda cls, at: datetime.__new__(
        cls, at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, at.tzinfo, fold=at.fold
    ),
    date: lambda cls, day: date.__new__(cls, day.year, day.month, day.day),
    time: lambda cls, at: time.__new__(cls, at.hour, at.minute, at.second, at.microsecond, at.tzinfo, fold=at.fold),
    timedelta: lambda cls, span: timedelta.__new__(cls, span.days, span.seconds, span.microseconds),
    UUID: _made_uuid,
}
