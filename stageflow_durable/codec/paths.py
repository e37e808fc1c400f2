"""Where a walk through a value stands, and how a message names that place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

MAX_DEPTH = 100
"""How many containers may stand inside each other."""

KEY = None  # the step of a path that leads to a dict's key or a set's item, which have no name of their own
_LONGEST_PATH = 200
_LONGEST_KEY = 60

# Where the walk stands: (the trail of the holder, the key inside it, the holder), None at the root.
Trail: TypeAlias = "tuple[Trail, object, object] | None"


class Refused(Exception):
    """Carries the trail to where the walk stopped up to whoever knows the root's name."""

    def __init__(self, trail: Trail, kind: str, hint: str = "") -> None:
        self.trail, self.kind, self.hint = trail, kind, hint


def step(key: object) -> str:
    """Return how a path names the way into ``key``: ``.name``, ``[2]`` or ``['odd name']``."""
    if isinstance(key, str) and len(key) <= _LONGEST_KEY and key.isidentifier():
        return f".{key}"
    if isinstance(key, str | int):
        return f"[{_shortened(ascii(key), _LONGEST_KEY)}]"
    return "[…]"


def path(root: str, trail: Trail) -> str:
    """Return the place as text, ``root`` first."""
    return _shortened(root + "".join(step(key) for _, key, _ in _from_root(trail)), _LONGEST_PATH)


def entered(room: int, holder: object, trail: Trail) -> int:
    """Return the room left inside ``holder``. Raises Refused where there is none, or ``holder`` is inside itself."""
    if room > 0:
        return room - 1
    trails = list(_from_root((trail, None, holder)))
    seen: set[int] = set()
    for above, _, ancestor in trails:
        if id(ancestor) in seen:
            raise Refused(above, "a reference to a container that it is inside of")
        seen.add(id(ancestor))
    raise Refused(trail, f"nesting deeper than {MAX_DEPTH} containers")


def named(value: object) -> str:
    """Return the name of a value's class as messages have it."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _from_root(trail: Trail) -> Iterator[tuple[Trail, object, object]]:
    if trail is not None:
        yield from _from_root(trail[0])
        yield trail


def _shortened(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"
