"""Immutable views of decoded values: what a stage sees of its ancestors' outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

_Class = TypeVar("_Class", bound=type)


def _refuse(*_: object, **__: object) -> NoReturn:
    raise TypeError("this value is frozen; copy.deepcopy(value) gives one that can be changed")


def _without(*mutators: str) -> Callable[[_Class], _Class]:
    def seal(cls: _Class) -> _Class:
        for name in mutators:
            setattr(cls, name, _refuse)
        return cls

    return seal


@_without("__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update")
class FrozenDict(dict[Any, Any]):
    """A ``dict`` that refuses changes with ``TypeError``; equal to the plain one. Copies and pickles are plain."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)


@_without(
    "__setitem__",
    "__delitem__",
    "__iadd__",
    "__imul__",
    "append",
    "clear",
    "extend",
    "insert",
    "pop",
    "remove",
    "reverse",
    "sort",
)
class FrozenList(list[Any]):
    """A ``list`` that refuses changes with ``TypeError``; equal to the plain one. Copies and pickles are plain."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


@_without(
    "__iand__",
    "__ior__",
    "__isub__",
    "__ixor__",
    "add",
    "clear",
    "difference_update",
    "discard",
    "intersection_update",
    "pop",
    "remove",
    "symmetric_difference_update",
    "update",
)
class FrozenSet(set[Any]):
    """A ``set`` that refuses changes with ``TypeError``; equal to the plain one, and saved as a ``set``."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return set, (set(self),)


def freeze(value: Any) -> Any:
    """Return ``value`` with every dict, list and set in it replaced by a frozen one, to the depths.

    Meant for values as ``decode`` returns them; objects of other types are handed on as they are. The result equals
    ``value`` and encodes to the same text. Cost: one copy of the containers; what is frozen already is not copied.
    """
    rule = _FREEZERS.get(type(value))
    return value if rule is None else rule(value)


_FREEZERS: dict[type, Callable[[Any], object]] = {
    dict: lambda value: FrozenDict({key: freeze(item) for key, item in value.items()}),
    list: lambda value: FrozenList(map(freeze, value)),
    tuple: lambda value: tuple(map(freeze, value)),
    set: FrozenSet,
}
