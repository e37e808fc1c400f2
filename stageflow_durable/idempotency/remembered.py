"""What a remembered output comes back as: the objects that the body returned, or a refusal by name."""

from __future__ import annotations

import inspect
from functools import partial
from types import FunctionType
from typing import Any, get_type_hints
from weakref import WeakKeyDictionary

from stageflow_durable.codec import Classes, UnreadableValue, encode, restore
from stageflow_durable.codec.writing import ENUM_NAME, TAG
from stageflow_durable.errors import UnsavableValue

_OBJECT = f'"{TAG}":"enum","{ENUM_NAME}":'


class Known:
    """The classes that outputs are restored by: those that ``result_type`` and a body's annotation lead to."""

    def __init__(self, result_type: object) -> None:
        self.declared = Classes(result_type)
        self._by_body: WeakKeyDictionary[Any, Classes] = WeakKeyDictionary()

    def of(self, body: object) -> Classes:
        """For outputs of ``body``, looked at once."""
        function = _function_of(body)
        if not isinstance(function, FunctionType):
            return self.declared
        if function not in self._by_body:
            self._by_body[function] = Classes(self.declared.declared, Classes(_returned_by(function)).own)
        return self._by_body[function]


def remembered(text: str, classes: Classes, key: str) -> Any:
    """The output that was saved as ``text``, equal to what the body returned.

    :raises UnreadableValue: it holds an object of a class that ``classes`` does not lead to, or that has other fields
        now.
    """
    found = restore(text, classes)
    if not _is_whole(found.value, text, whole=found.whole):
        raise UnreadableValue(
            f"what is remembered under idempotency key {key!r} holds objects whose classes are not known here, or have "
            "other fields now; give IdempotencyInterceptor(result_type=…) the type that the body returns"
        )
    return found.value


def comes_back(value: object, classes: Classes) -> bool:
    """Whether a duplicate gets an equal ``value``. One that cannot be saved is not asked about."""
    try:
        text = encode(value, "output")
        found = restore(text, classes)
    except (UnsavableValue, UnreadableValue):
        return True  # the store says so itself
    return _is_whole(found.value, text, whole=found.whole)


def _is_whole(value: object, text: str, *, whole: bool) -> bool:
    # A member of an enum that is not known here is its value, which is no object to miss: it is missed in the text.
    return whole and (_OBJECT not in text or encode(value).count(_OBJECT) == text.count(_OBJECT))


def _function_of(body: object) -> object:
    while isinstance(body, partial):
        body = body.func
    kind: Any = type(body)
    function = body if inspect.isroutine(body) else kind.__call__
    return getattr(function, "__func__", function)


def _returned_by(function: FunctionType) -> object:
    try:
        return get_type_hints(inspect.unwrap(function)).get("return")
    except Exception:  # noqa: BLE001  # a name that is only there for type checkers
        return None
