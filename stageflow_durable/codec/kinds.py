"""What kind of class a value is of, and what its instances consist of: asked of each class once."""

from __future__ import annotations

import dataclasses
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from functools import cached_property, lru_cache
from inspect import getattr_static
from pathlib import Path
from typing import Any
from uuid import UUID

from stageflow_durable.codec.frozen import FrozenDict, FrozenList, FrozenSet
from stageflow_durable.masking import annotations_of, is_mark, is_sensitive

BASES: tuple[type, ...] = (
    dict,
    list,
    tuple,
    set,
    frozenset,
    int,
    float,
    Decimal,
    str,
    bytes,
    bytearray,
    datetime,
    date,
    time,
    timedelta,
    UUID,
    type(Path()),
    Path,
)
"""What can be saved as it is; the order matters: a datetime is a date too."""

COLLECTIONS = frozenset({OrderedDict, Counter})
"""Of the standard library, and all that they hold is in the dict that they are."""

_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_STANDARD = frozenset({*BASES, bool, type(None), FrozenDict, FrozenList, FrozenSet})
_OF_PYDANTIC = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
_NOT_STATE = frozenset({"__orig_class__", "__dict__", "__weakref__", *_OF_PYDANTIC})  # the first: a note of typing's


class Kind(StrEnum):
    """How instances of a class are taken apart and put together."""

    MODEL = "model"
    DATACLASS = "dataclass"
    ENUM = "enum"
    NAMED_TUPLE = "named tuple"
    BASED = "based"
    """A subclass of a standard type."""


@dataclass(frozen=True, slots=True)
class Make:
    """Of a class: its ``kind`` and its fields. ``base``: the standard type it is a subclass of, or None.

        ``slots``: names that are neither fields nor in ``__dict__``. ``hidden``: fields that the class does not show as
    they are, by ``exclude=True`` or a serializer of its own; ``sensitive``: those that are marked so; ``not_shown``:
    both. ``generated``: fields and private attributes whose default is made by a function. ``says_more``: a subclass of
    a standard type with data of its own in the class.
    ``is_open``: all that its instances hold can be seen; what an extension module holds cannot.
    """

    kind: Kind
    fields: tuple[str, ...] = ()
    base: type | None = None
    slots: tuple[str, ...] = ()
    is_root: bool = False
    allows_extra: bool = False
    hidden: frozenset[str] = frozenset()
    sensitive: frozenset[str] = frozenset()
    generated: frozenset[str] = frozenset()
    says_more: bool = False
    is_open: bool = True
    names: frozenset[str] = field(init=False, repr=False, compare=False)
    not_shown: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", frozenset(self.fields))
        object.__setattr__(self, "not_shown", self.hidden | self.sensitive)


def is_typed_dict(cls: type) -> bool:
    """Whether it is a TypedDict, whose values are dicts: the class itself has no instances."""
    return hasattr(cls, "__total__") and issubclass(cls, dict)


def is_model(cls: type) -> bool:
    """Whether it is a Pydantic model (of version 2)."""
    return isinstance(getattr(cls, "__pydantic_fields__", None), dict) and hasattr(cls, "__pydantic_fields_set__")


@lru_cache(maxsize=4096)
def make_of(cls: type) -> Make | None:
    """What is known of a class; None for standard types, and for classes that nothing is known of."""
    if cls in _STANDARD or is_typed_dict(cls):
        return None
    base = next((base for base in BASES if issubclass(cls, base)), None)
    if issubclass(cls, Enum):
        return Make(Kind.ENUM)
    if is_model(cls):
        return _model(cls)
    if dataclasses.is_dataclass(cls):
        fields = tuple(one.name for one in dataclasses.fields(cls))
        declared = getattr(cls, "__pydantic_fields__", {})  # of one of Pydantic's
        excluded = frozenset(name for name, one in declared.items() if one.exclude)
        slots, marked = _slots(cls, object, fields), _sensitive(cls, declared) | excluded
        return None if base else Make(Kind.DATACLASS, fields, slots=slots, sensitive=marked & {*fields})
    return None if base is None else _on_base(cls, base)


def _on_base(cls: type, base: type) -> Make:
    fields = tuple(getattr(cls, "_fields", ())) if base is tuple else ()
    if fields:
        return Make(Kind.NAMED_TUPLE, fields, tuple, _slots(cls, tuple, ()))
    above = cls.__mro__[: cls.__mro__.index(base)]
    is_open = cls in COLLECTIONS or all(one.__flags__ & _MADE_IN_PYTHON for one in above)
    return Make(Kind.BASED, base=base, slots=_slots(cls, base, ()), says_more=_says_more(cls, base), is_open=is_open)


def _model(cls: Any) -> Make:
    fields = cls.__pydantic_fields__
    private = getattr(cls, "__private_attributes__", {})
    generated = {name for name, one in {**fields, **private}.items() if one.default_factory is not None}
    return Make(
        Kind.MODEL,
        tuple(fields),
        slots=_slots(cls, object, tuple(fields)),
        is_root=bool(getattr(cls, "__pydantic_root_model__", False)),
        allows_extra=cls.model_config.get("extra") == "allow",
        hidden=_hidden(cls, fields),
        sensitive=_sensitive(cls, fields),
        generated=frozenset(generated),
    )


def _hidden(cls: Any, fields: dict[str, Any]) -> frozenset[str]:
    decorators = cls.__pydantic_decorators__
    if decorators.model_serializers:
        return frozenset(fields)
    served = {name for found in decorators.field_serializers.values() for name in found.info.fields}
    own = {
        name
        for name, one in fields.items()
        if one.exclude or any(type(part).__name__.endswith("Serializer") for part in one.metadata)
    }
    return frozenset(fields) if "*" in served else frozenset(own | served)


def _sensitive(cls: Any, fields: Mapping[str, Any]) -> frozenset[str]:
    """Fields that are marked by their annotation, or by Pydantic's ``Field``. ``fields``: those that it knows."""
    by_annotation = {name for name, one in annotations_of(cls).items() if is_sensitive(one)}
    by_field = {name for name, one in fields.items() if is_mark(one) or is_sensitive(one.annotation)}
    return frozenset(by_annotation | by_field)


def _slots(cls: type, base: type, without: tuple[str, ...]) -> tuple[str, ...]:
    found: list[str] = []
    for one in cls.__mro__:
        if one is base or one is object:
            break
        listed = vars(one).get("__slots__", ())
        for name in (listed,) if isinstance(listed, str) else tuple(listed):
            mangled = f"_{one.__name__.lstrip('_')}{name}" if name.startswith("__") and name[-2:] != "__" else name
            if mangled not in _NOT_STATE and mangled not in without:
                found.append(mangled)
    return tuple(dict.fromkeys(found))


def _says_more(cls: type, base: type) -> bool:
    """Whether the class has data that its base lacks, as ``class Euro(Decimal): currency = "EUR"``."""
    if cls is defaultdict or cls in COLLECTIONS:
        return False
    above = [one for one in cls.__mro__ if one is not base and not issubclass(base, one)]
    return any(
        not name.startswith("__") and name != "_abc_impl" and not hasattr(type(value), "__get__")
        for one in above
        for name, value in vars(one).items()
    )


def state_of(value: Any, make: Make) -> dict[str, object]:
    """What an instance has besides its fields and its base: attributes that somebody set, by name."""
    try:
        held: dict[str, object] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        held = {}
    if not make.slots and held.keys() == make.names:
        return {}
    known = make.names
    state = {name: part for name, part in held.items() if name not in known and _is_state(type(value), name)}
    for name in make.slots:
        try:
            state[name] = object.__getattribute__(value, name)
        except AttributeError:  # a slot that was never set
            continue
    return state


def _is_state(cls: type, name: str) -> bool:
    # What a cached_property remembers it finds out again.
    return name not in _NOT_STATE and not isinstance(getattr_static(cls, name, None), cached_property)
