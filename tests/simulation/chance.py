"""Chance, decided by a seed: every decision has a name, and all that were not the boring one can be written down.

A decision is named by what it is about and by how often that was asked before (``"w1 after begin#3"``). Asked again
with the same seed, the answers are the same; asked with a list of answers instead, everything that is not in the list
is boring: first choice, no fault. So a failing seed can be made smaller by taking answers out of its list.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

Answers = dict[str, str]
T = TypeVar("T")


class Chance:
    """Answers of one seed, or of a list. ``made`` is the list of those that were not boring."""

    def __init__(self, seed: int | None, answers: Mapping[str, str] | None = None) -> None:
        self._random = None if answers is not None else random.Random(seed)
        self._seed = seed
        self._answers = answers or {}
        self._asked: dict[str, int] = {}
        self.made: Answers = {}

    def _count(self, about: str) -> int:
        """How often that was asked before."""
        count = self._asked.get(about, 0)
        self._asked[about] = count + 1
        return count

    def flip(self, about: str, likely: float) -> bool:
        """Whether something happens; boring is that it does not."""
        count = self._asked.get(about, 0)  # as ``_count``: most decisions are made here
        self._asked[about] = count + 1
        if self._random is None:
            answer = f"{about}#{count}" in self._answers
        else:
            answer = likely > 0 and self._random.random() < likely
        if answer:
            self.made[f"{about}#{count}"] = "yes"
        return answer

    def pick(self, about: str, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """One of the options; the first is the boring one."""
        return options[self._which(about, options, weights)]

    def one_of(self, about: str, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of any things, told apart by their text; the first is the boring one."""
        return options[self._which(about, options, weights)]

    def _which(self, about: str, options: Sequence[object], weights: Sequence[float] | None) -> int:
        count = self._asked.get(about, 0)  # as ``_count``
        self._asked[about] = count + 1
        if self._random is None:
            named = list(map(str, options))
            answer = self._answers.get(f"{about}#{count}", named[0])
            which = named.index(answer) if answer in named else 0
        elif weights is None:
            which = int(self._random.random() * len(options))
        else:
            which = _weighed(self._random.random(), weights)
        if which:
            self.made[f"{about}#{count}"] = str(options[which])
        return which

    def beside(self, about: str, options: Sequence[T], weights: Sequence[float]) -> T:
        """As :meth:`one_of`, without a hand in any other decision: they are what they were before this one came."""
        drawn = self._random
        self._random = None if drawn is None else random.Random(f"{self._seed} {about}")
        try:
            return self.one_of(about, options, weights)
        finally:
            self._random = drawn

    def number(self, about: str, low: int, high: int, weights: Sequence[float] | None = None) -> int:
        """From ``low``, the boring one, to ``high``."""
        if weights is not None:
            return self.one_of(about, range(low, high + 1), weights)
        count = self._count(about)
        if self._random is None:
            answer = min(high, max(low, int(self._answers.get(f"{about}#{count}", low))))
        else:
            answer = low + int(self._random.random() * (high - low + 1))
        if answer != low:
            self.made[f"{about}#{count}"] = str(answer)
        return answer


def _weighed(drawn: float, weights: Sequence[float]) -> int:
    """``random.choices`` of one, at a third of its cost."""
    left = drawn * sum(weights)
    for which, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return which
    return len(weights) - 1
