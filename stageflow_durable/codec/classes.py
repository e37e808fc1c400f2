"""The classes that a declared type leads to: only these are restored. A text names classes, and is never believed.

A name is looked up among the classes that the declaration names, and their subclasses in the same modules, which any
process that has the declaration has imported. Nothing is imported for a name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import lru_cache
from hashlib import sha256
from types import UnionType
from typing import Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from stageflow_durable.codec.enums import name_of as name_of_enum
from stageflow_durable.codec.kinds import COLLECTIONS, Kind, Make, is_model, is_typed_dict, make_of

_DIGITS = 8


class Classes:
    """What ``declared`` leads to. ``more``: classes that whoever validates it knows of besides.

    ``ready``: by name and shape those that have been restored with all the fields that they have now. ``own``: the
    classes that the declaration names. ``mark``: says in a text that its value was validated as
    ``declared``; None where the value's class says so.
    """

    def __init__(self, declared: object, more: Iterable[type] = ()) -> None:
        self.declared = declared
        self.own = reachable([declared, *more])
        self.mark = None if _tells_itself(declared) else shape_of_type(declared)
        self.ready: dict[tuple[str, str], tuple[type, Make]] = {}
        self._covered: set[type] = set()
        self._modules = {cls.__module__ for cls in self.own}
        self._found: dict[str, type] = {f"{cls.__module__}:{cls.__qualname__}": cls for cls in COLLECTIONS}

    def covers(self, cls: type) -> bool:
        """Whether what is saved of ``cls`` leads back to it."""
        if cls in self._covered:
            return True
        found = self.find_enum(name_of_enum(cls)) if issubclass(cls, Enum) else self.find(name_of(cls))
        if found is cls:
            self._covered.add(cls)
        return found is cls

    def find_enum(self, name: str) -> type[Enum] | None:
        """The enum that a text calls so (``module.qualified name``, or as it is registered)."""
        enums = [cls for cls in self.own if issubclass(cls, Enum)]
        exact = [cls for cls in enums if name_of_enum(cls) == name]
        found = exact or [cls for cls in enums if name.endswith(f".{cls.__qualname__}")]
        return found[0] if len(found) == 1 else None

    def find(self, name: str) -> type | None:
        """The class of that name (``module:qualified name``); where its module has moved, the only one so called."""
        found = self._found.get(name)
        if found is None:
            found = _picked(self.own, name) or _picked(self._further(), name)
            if found is not None:
                self._found[name] = found
        return found

    def _further(self) -> list[type]:
        """With subclasses, and what they lead to; looked up anew, as classes come to be."""
        found = dict.fromkeys(self.own)
        waiting = list(found)
        while waiting:
            subclasses: list[type] = type.__subclasses__(waiting.pop())
            at_hand = [sub for sub in subclasses if self._is_at_hand(sub)]
            fresh = [sub for sub in reachable(at_hand) if sub not in found]
            found |= dict.fromkeys(fresh)
            waiting += fresh
        return list(found)

    def _is_at_hand(self, cls: type) -> bool:
        # Neither made within a function nor by a parameter of a generic class: another process may not have made it.
        return cls.__module__ in self._modules and not {"<", "["} & set(cls.__qualname__)


def _tells_itself(declared: object) -> bool:
    make = make_of(declared) if isinstance(declared, type) and get_origin(declared) is None else None
    return make is not None and make.kind in (Kind.MODEL, Kind.DATACLASS)


def _picked(classes: list[type], name: str) -> type | None:
    exact = [cls for cls in classes if name_of(cls) == name]
    if exact:
        return exact[0] if len(exact) == 1 else None
    called = name.partition(":")[2]
    alike = [cls for cls in classes if cls.__qualname__ == called]
    return alike[0] if len(alike) == 1 else None


def name_of(cls: type) -> str:
    """What a text calls a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


@lru_cache(maxsize=1024)
def classes_of(cls: type) -> Classes:
    """Of one class."""
    return Classes(cls)


def reachable(declared: Iterable[object]) -> list[type]:
    """The classes of interest that annotations lead to, through fields, parameters and alternatives."""
    return [cls for cls in _walked(declared) if make_of(cls) is not None]


def _walked(declared: Iterable[object]) -> list[type]:
    found: dict[type, None] = {}
    seen: dict[int, object] = {}
    waiting = list(declared)
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        seen[id(one)] = one  # kept: an id is one object's only as long as that lives
        if isinstance(one, type) and get_origin(one) is None:
            found[one] = None
            waiting += annotations_of(one).values()
            waiting += in_schema(vars(one).get("__pydantic_core_schema__"))
        else:
            waiting += _parts(one)
    return list(found)


def in_schema(schema: object) -> Iterator[type]:
    """The classes that a schema of Pydantic's names: annotations that are text are resolved there."""
    waiting = [schema]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [part for key, part in one.items() if key not in ("metadata", "serialization")]
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, type) and make_of(one) is not None:
            yield one


def annotations_of(cls: Any) -> dict[str, object]:
    """The annotations of a class's fields by name; text where it cannot be resolved."""
    known = is_typed_dict(cls) or make_of(cls) is not None
    return _annotations_of(cls) if known and not issubclass(cls, Enum) else {}


@lru_cache(maxsize=4096)
def _annotations_of(cls: Any) -> dict[str, object]:
    found: dict[str, object] = {}
    if not is_model(cls) or cls.__private_attributes__:
        try:
            found = get_type_hints(cls, include_extras=True)
        except Exception:  # noqa: BLE001  # a name that is only there for type checkers, or within a function
            for one in reversed(cls.__mro__):
                found |= vars(one).get("__annotations__", {})
    found = {name: hint for name, hint in found.items() if not name.startswith(("__", "model_"))}
    fields = getattr(cls, "__pydantic_fields__", {})
    return found | {name: field.annotation for name, field in fields.items()}


def _parts(annotation: Any) -> list[object]:
    if isinstance(annotation, TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    for name in ("__supertype__", "__value__"):  # NewType, and an alias made by ``type``
        if hasattr(annotation, name):
            return [getattr(annotation, name)]
    origin, parameters = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return [parameters[0]]
    if origin is Literal:
        return [type(value) for value in parameters]
    return [origin, *(one for part in parameters for one in (part if isinstance(part, list) else [part]))]


@lru_cache(maxsize=4096)
def shape_of(cls: type, names: tuple[str, ...]) -> str:
    """A digest of what the fields ``names`` are declared as: it changes where what was saved has to be looked at
    anew.
    """
    annotations = annotations_of(cls)
    described = "\n".join(f"{name}: {_described(annotations.get(name, '-'))}" for name in sorted(names))
    return sha256(described.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]


def shape_of_type(declared: object) -> str:
    """The same of any declared type."""
    keys = {
        cls.__qualname__: shape_of(cls, tuple(annotations_of(cls)))
        for cls in filter(is_typed_dict, _walked([declared]))
    }
    described = f"{_described(declared)} {sorted(keys.items())}"
    return sha256(described.encode("utf-8", "backslashreplace")).hexdigest()[:_DIGITS]


def _described(annotation: Any) -> str:
    """An annotation as text that no version of Python writes differently; what it is constrained by is left out."""
    origin, parameters = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _described(parameters[0])
    if origin is Literal:
        return f"Literal[{', '.join(map(repr, parameters))}]"
    if origin in (Union, UnionType):
        return " | ".join(sorted(map(_described, parameters)))
    if origin is not None:
        return f"{_described(origin)}[{', '.join(map(_described, parameters))}]"
    return annotation if isinstance(annotation, str) else _called(annotation)


def _called(annotation: Any) -> str:
    if annotation is None or annotation is type(None):
        return "None"
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    return str(getattr(annotation, "__qualname__", None) or getattr(annotation, "__name__", None) or "?")


def default_of(cls: Any, name: str) -> Any:
    """The default of a field that was added since. Raises LookupError where it has none."""
    field = getattr(cls, "__pydantic_fields__", {}).get(name)
    if field is not None and is_model(cls):
        if field.is_required():
            raise LookupError(name)
        return field.get_default(call_default_factory=True, validated_data={})
    found = {one.name: one for one in dataclasses.fields(cls)}[name] if dataclasses.is_dataclass(cls) else None
    if found is not None and found.default is not dataclasses.MISSING:
        return found.default
    if found is not None and found.default_factory is not dataclasses.MISSING:
        return found.default_factory()
    raise LookupError(name)
