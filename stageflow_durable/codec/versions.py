"""Fingerprints say by which version of the rules they were made, and are compared by it.

Version 1 is 64 hexadecimal digits. Version 2 sees what the first did not (excluded fields, which fields were set,
classes, private attributes) and is ``2:`` and 62 digits; where there is nothing of that it is the text of the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any
from uuid import UUID

_SECOND = "2:"


class Fingerprint(str):
    """A fingerprint as it is stored, of what is at hand: so it can be told as an earlier version would have it."""

    __slots__ = ("_first",)

    _first: Callable[[], str] | None

    @classmethod
    def of(cls, digest: str, first: Callable[[], str], *, marked: bool) -> Fingerprint:
        """From the SHA-256 of a canonical text. ``first``: makes the one of version 1. ``marked``: whether the text has
        what version 1 did not see.
        """
        made = cls(_SECOND + digest[: 64 - len(_SECOND)] if marked else digest)
        made._first = first if marked else None
        return made

    def first(self) -> str:
        """As version 1 has it; itself where that cannot be told."""
        made = getattr(self, "_first", None)
        if made is not None:
            with suppress(Exception):  # it asked the application's serializers, which may raise what they like
                return str(made())
        return self


def as_stored(given: str, stored: str) -> str:
    """``given`` in the version and length of ``stored``: equal to it where the parameters are, as that version saw."""
    if given == stored or stored.startswith(_SECOND) or not isinstance(given, Fingerprint):
        return given[: len(stored)]
    return given.first()[: len(stored)]


def first_plain(value: Any) -> Any:
    """What version 1 saw of a value: models by ``model_dump``, dataclasses by their fields, subclasses as their base.

    Never to be changed: what it saw is in the databases.
    """
    kind = type(value)
    if kind in _ATOMS or isinstance(value, Enum):
        return value
    if callable(getattr(kind, "model_dump", None)):
        return first_plain(value.model_dump(round_trip=True, warnings=False))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: first_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    convert = next((convert for base, convert in _BASES if isinstance(value, base)), None)
    if convert is None:
        raise TypeError(f"version 1 could not save {kind.__name__}")
    return convert(value)


def _set(value: Any) -> set[Any] | frozenset[Any]:
    items = map(first_plain, value)
    return set(items) if isinstance(value, set) else frozenset(items)


_ATOMS = frozenset({str, bool, type(None), datetime, date, timedelta, UUID, bytes, type(Path())})
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (dict, lambda value: {first_plain(key): first_plain(item) for key, item in value.items()}),
    (list, lambda value: list(map(first_plain, value))),
    (tuple, lambda value: tuple(map(first_plain, value))),
    (set, _set),
    (frozenset, _set),
    (int, int.__int__),
    (float, float.__float__),
    (Decimal, Decimal),
    (time, lambda at: time(at.hour, at.minute, at.second, at.microsecond, at.tzinfo, fold=at.fold)),
    (str, str.__str__),
    (bytes, bytes),
    (bytearray, bytes),
    (datetime, lambda value: datetime.combine(datetime.date(value), datetime.timetz(value))),
    (date, lambda value: date(value.year, value.month, value.day)),
    (timedelta, lambda value: timedelta(value.days, value.seconds, value.microseconds)),
    (UUID, lambda value: UUID(int=value.int)),
    (Path, Path),
)
