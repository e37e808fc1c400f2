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
        self._answers = answers or {}
        self._asked: dict[str, int] = {}
        self.made: Answers = {}

    def _name(self, about: str) -> str:
        count = self._asked.get(about, 0)
        self._asked[about] = count + 1
        return f"{about}#{count}"

    def flip(self, about: str, likely: float) -> bool:
        """Whether something happens; boring is that it does not."""
        name = self._name(about)
        drawn = self._random is not None and likely > 0 and self._random.random() < likely
        answer = drawn or name in self._answers
        if answer:
            self.made[name] = "yes"
        return answer

    def pick(self, about: str, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """One of the options; the first is the boring one."""
        name = self._name(about)
        if self._random is None:
            answer = self._answers.get(name, options[0])
            answer = answer if answer in options else options[0]
        elif weights is None:
            answer = options[int(self._random.random() * len(options))]
        else:
            answer = _weighed(self._random.random(), options, weights)
        if answer != options[0]:
            self.made[name] = answer
        return answer

    def number(self, about: str, low: int, high: int, weights: Sequence[float] | None = None) -> int:
        """From ``low``, the boring one, to ``high``."""
        if weights is not None:
            return self.one_of(about, range(low, high + 1), weights)
        name = self._name(about)
        if self._random is None:
            answer = min(high, max(low, int(self._answers.get(name, low))))
        else:
            answer = low + int(self._random.random() * (high - low + 1))
        if answer != low:
            self.made[name] = str(answer)
        return answer

    def one_of(self, about: str, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of any things, told apart by their text; the first is the boring one."""
        named = {str(option): option for option in options}
        return named[self.pick(about, list(named), weights)]


def _weighed(drawn: float, options: Sequence[str], weights: Sequence[float]) -> str:
    """``random.choices`` of one, at a third of its cost."""
    left = drawn * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]
