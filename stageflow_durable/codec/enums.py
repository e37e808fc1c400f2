"""Which enums may be restored: the text never names a class to import, so an application says which it trusts."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

from stageflow_durable.errors import ConfigurationError

_Enum = TypeVar("_Enum", bound=type[Enum])

_classes: dict[str, type[Enum]] = {}
_names: dict[type[Enum], str] = {}


def register_enum(cls: _Enum, *, name: str | None = None) -> _Enum:
    """Let ``decode`` restore members of ``cls``; usable as a decorator. Returns ``cls``.

    A member of an enum that is not registered is saved just the same and comes back as its *value*. ``name`` is what
    stands in the text (default: module and qualified name); give one when the module is run as ``__main__`` in one
    process and imported in another, or when the class may move. Register at import, in every process that reads.
    Raises :class:`ConfigurationError` when the name belongs to another class already.
    """
    known_as = name or _qualified(cls)
    holder, newcomer = _qualified(_classes.get(known_as, cls)), _qualified(cls)
    if holder != newcomer:
        raise ConfigurationError(f"register_enum: {known_as!r} is {holder} already; give {newcomer} another name")
    _classes[known_as] = cls  # a module that was loaded again brings the same class anew
    _names[cls] = known_as
    return cls


def is_registered(cls: type[Enum]) -> bool:
    """Whether members of ``cls`` are restored wherever they are read."""
    return cls in _names


def is_known(name: object) -> bool:
    """Whether an enum is registered as ``name``. Raises TypeError for what can be no name."""
    return name in _classes


def name_of(cls: type[Enum]) -> str:
    """Return what the text calls ``cls``."""
    return _names.get(cls) or _qualified(cls)


def restore(name: str, value: object) -> object:
    """Return the member of the enum registered as ``name``, or ``value`` itself when none is.

    Raises ValueError when the enum has no such member.
    """
    cls = _classes.get(name)
    try:
        return value if cls is None else cls(value)
    except Exception as error:  # an enum's own lookup may raise what it likes
        raise ValueError(f"{name} has no such member") from error


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
