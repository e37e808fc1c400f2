"""Declared types: validated once, where a value enters; what was saved is restored, not validated again."""

from __future__ import annotations

from functools import lru_cache
from inspect import isroutine
from typing import TYPE_CHECKING, Any, get_origin

from stageflow_durable.codec import Classes, fields_of, in_schema, restore
from stageflow_durable.errors import DefinitionError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import ValidationError

    from stageflow_durable.model.pipeline import Pipeline

_BY_FIELD = {"by_alias": False, "by_name": True}
_EITHER = {"by_alias": True, "by_name": True}


class Typed:
    """A declared type: anything that Pydantic can validate. ``classes``: those that it leads to. Raises Pydantic's
    errors when the type cannot be used.
    """

    def __init__(self, declared: Any) -> None:
        from pydantic import TypeAdapter  # imported at first use: it costs more than the rest of the package

        if isroutine(declared):  # Pydantic would call it
            raise TypeError("it is a function, not a type")
        self._adapter: Any = TypeAdapter(declared)
        self._adapter.rebuild(raise_errors=True)
        self._declared = declared
        self.classes = Classes(declared, in_schema(self._adapter.core_schema))
        config = getattr(declared, "model_config", {})
        self._trusts = _is_class(declared) and config.get("revalidate_instances", "never") == "never"

    def validated(self, value: Any, what: str) -> Any:
        """``value`` as this type; an instance is taken as it is. Raises InvalidInput naming each field."""
        if self._is_one(value):
            return value
        fields = fields_of(value)  # of an object of another class
        return self._validated(value if fields is None or self._is_other(value) else fields, what, {})

    def _is_other(self, value: Any) -> bool:
        """Whether the type itself takes such an object."""
        return any(isinstance(value, cls) for cls in self.classes.own)

    def read(self, text: str, what: str) -> Any:
        """What was validated as this type, and saved as ``text``. Where the type has changed since, or the text was
        written before there was a note of it, it is validated again, by the names of the fields. Raises InvalidInput
        when it does not fit any more, UnreadableValue.
        """
        found = restore(text, self.classes)
        return found.value if found.checked else self._validated(found.value, what, _BY_FIELD)

    def read_output(self, text: str, what: str) -> Any:
        """What a stage saved as ``text``, as this type: the object that it returned, or validated now. Raises as
        :meth:`read`.
        """
        found = restore(text, self.classes)
        if found.whole and self._is_one(found.value):
            return found.value
        return self._validated(found.value, what, _EITHER if found.whole else _BY_FIELD)

    def migrated(self, value: Any, what: str) -> Any:
        """What a migration made of it, by the names of the fields or their aliases. Raises InvalidInput."""
        return self._validated(value, what, _EITHER)

    def is_object(self, value: Any) -> bool:
        """Whether it is an object of this type already: what is not is validated when it is asked for."""
        return self.classes.mark is None and self._is_one(value)

    def _is_one(self, value: Any) -> bool:
        return self._trusts and isinstance(value, self._declared)

    def _validated(self, value: Any, what: str, names: Mapping[str, bool]) -> Any:
        from pydantic import ValidationError

        try:
            return self._adapter.validate_python(value, **names)
        except ValidationError as error:
            raise InvalidInput(what, _fields(error)) from None


def typed(declared: Any) -> Typed:
    """The type, made once where it can be. Raises as :class:`Typed`."""
    try:
        return _typed(declared)
    except TypeError:
        return _typed_by_id(declared)


@lru_cache(maxsize=512)
def _typed(declared: Any) -> Typed:
    return Typed(declared)


_BY_ID: dict[int, Typed] = {}


def _typed_by_id(declared: Any) -> Typed:
    """Of a type that cannot be hashed, as ``Annotated`` with a dict: it lives as long as its :class:`Typed` here."""
    found = _BY_ID.get(id(declared))
    if found is None:
        if len(_BY_ID) >= 512:
            _BY_ID.clear()
        found = _BY_ID[id(declared)] = Typed(declared)
    return found


def saved_by(result_type: Any, output: Any) -> Classes | None:
    """The classes that a run's result is restored by; None where it is not an object of that type already."""
    if result_type is None:
        return None
    declared = typed(result_type)
    return declared.classes if declared.is_object(output) else None


def check_types(pipeline: Pipeline[Any, Any]) -> None:
    """Raises DefinitionError where values cannot be validated as the types that a pipeline declares."""
    problems = []
    for name, declared in (("input_type", pipeline.input_type), ("result_type", pipeline.result_type)):
        if declared is None:
            continue
        try:
            typed(declared)
        except Exception as error:  # noqa: BLE001  # Pydantic's, or of the application's own hooks
            said = str(error).partition("\n")[0]
            problems.append(f"{name} {_called(declared)} cannot be used: {type(error).__name__}: {said}")
    if problems:
        raise DefinitionError(pipeline.name, problems)


def _is_class(declared: Any) -> bool:
    # A TypedDict is a class, and refuses to be asked for instances.
    return isinstance(declared, type) and get_origin(declared) is None and not hasattr(declared, "__total__")


def _called(declared: Any) -> str:
    return declared.__qualname__ if isinstance(declared, type) else repr(declared)[:100]


def _fields(error: ValidationError) -> list[str]:
    return [
        f"{'.'.join(map(str, found['loc'])) or 'value'}: {found['msg']}" for found in error.errors(include_input=False)
    ]
