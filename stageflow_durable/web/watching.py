"""What a page is told as it goes: the documents that it shows, each again once it has changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """One kind of news. ``look``: the document as it is now, or None where that is known to be the last one; it is
    asked every so many seconds.
    """

    name: str
    every: float
    look: Callable[[], dict[str, Any] | None]


class Watch:
    """The kinds that a page is told of. Used by one thread at a time."""

    def __init__(self, kinds: Sequence[Kind], now: Callable[[], float]) -> None:
        self._kinds, self._now = kinds, now
        self._due: dict[str, float] = {}
        self._told: dict[str, str] = {}

    def news(self) -> Iterator[tuple[str, str]]:
        """Those that have changed, each with its JSON on one line. Raises what looking raises."""
        for kind in self._kinds:
            if self._due.get(kind.name, float("-inf")) > self._now():
                continue
            found = kind.look()
            self._due[kind.name] = self._now() + kind.every
            if found is None:
                continue
            same = json.dumps({name: value for name, value in found.items() if name != "now"})
            if self._told.get(kind.name) != same:
                self._told[kind.name] = same
                yield kind.name, json.dumps(found)
