"""Looking at strangers' errors by their shape: whatever an error's own code raises, looking at it never does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TypeGuard, TypeVar

T = TypeVar("T")

MOST_MEMBERS = 1000
"""Of a group that has more members, these are looked at."""


def is_a(thing: object, kind: type[T]) -> TypeGuard[T]:
    """``isinstance`` by the real type: ``__class__`` may be a property of the stranger's, and raise."""
    return issubclass(type(thing), kind)


def attribute(holder: object, name: str) -> object:
    """Return ``holder.name``, or None when there is none or its getter raises: looking must not fail where work did."""
    try:
        return getattr(holder, name, None)
    except BaseException:  # noqa: BLE001  # a foreign object's property may raise anything
        return None


def header(holder: object, name: str) -> object:
    """Return what stands under ``name`` in ``holder.headers``, or None; plain dicts are asked in lower case too."""
    get = attribute(attribute(holder, "headers"), "get")
    if not callable(get):
        return None
    try:
        return get(name) or get(name.lower())
    except BaseException:  # noqa: BLE001  # a foreign object's property may raise anything
        return None


def text(thing: object, most: int) -> str:
    """``str(thing)``, cut after ``most`` characters; what cannot be had is said."""
    try:
        said = str(thing)
        return str.__getitem__(said, slice(0, most))  # by str's own: it may be a subclass that answers otherwise
    except BaseException as why:  # noqa: BLE001  # it is the application's code
        return f"(its text cannot be had: {name_of(type(why))})"


def name_of(kind: type) -> str:
    """A type's name."""
    try:
        return str.__str__(kind.__name__)
    except BaseException:  # noqa: BLE001  # a metaclass may have a say in it
        return "an error without a name"


def full_name_of(kind: type) -> str:
    """A type's name with its module."""
    try:
        return f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:  # noqa: BLE001  # as above
        return ""


def add_note(error: BaseException, note: str) -> None:
    """``error.add_note``, where it can be had."""
    with suppress(BaseException):  # it was for the log alone
        error.add_note(note)


def members(group: BaseException) -> tuple[BaseException, ...]:
    """What an ``ExceptionGroup`` holds, one level deep; nothing for another error."""
    if not is_a(group, BaseExceptionGroup):
        return ()
    held = attribute(group, "exceptions")
    listed = held[:MOST_MEMBERS] if type(held) is tuple else ()
    return tuple(one for one in listed if is_a(one, BaseException))


def leaves(error: BaseException, most: int = MOST_MEMBERS) -> Iterator[BaseException]:
    """The errors in a group that are none themselves, however deep, in order; ``most`` of what is met is looked at."""
    waiting, met = [error], 0
    while waiting and met < most:
        one, met = waiting.pop(), met + 1
        inside = members(one)
        waiting += reversed(inside)
        if not inside:
            yield one
