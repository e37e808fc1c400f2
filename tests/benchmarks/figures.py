"""From samples to figures: medians over the rounds, ratios within a round, goals beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Samples = Mapping[str, Sequence[float]]
"""What each probe gave, round by round."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a figure has to reach (``"≥"``) or to stay under (``"≤"``)."""

    sign: str
    bound: float

    def met_by(self, value: float) -> bool:
        """Whether the value is on the right side."""
        return value >= self.bound if self.sign == "≥" else value <= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity over the rounds.

    ``unit``: ``"×"``, ``"/s"``, ``"s"``, ``"ms"``, ``"µs"``, ``"MB"``, ``"B"``, ``"%"``, or ``""`` for a count.
    ``aim``: the goal of the design; ``due``: what is due by now; without both it only explains the others.
    """

    row: int
    what: str
    unit: str
    values: tuple[float, ...]
    aim: Goal | None = None
    due: Goal | None = None

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    @property
    def noise(self) -> float:
        """Half the range between the rounds, as a share of the median."""
        return (max(self.values) - min(self.values)) / 2 / self.value if self.value else 0.0


def at_least(bound: float) -> Goal:
    """≥ ``bound``."""
    return Goal("≥", bound)


def at_most(bound: float) -> Goal:
    """≤ ``bound``."""
    return Goal("≤", bound)


def plain(row: int, what: str, unit: str, values: Sequence[float], aim: Goal | None = None) -> Figure:
    """A quantity as it was measured."""
    return Figure(row, what, unit, tuple(values), aim)


def ratio(
    row: int,
    what: str,
    over: Sequence[float],
    under: Sequence[float],
    aim: Goal | None = None,
    *,
    due: Goal | None = None,
) -> Figure:
    """One probe over another, round by round: what slows a whole round down falls out."""
    return Figure(row, what, "×", tuple(a / b for a, b in zip(over, under, strict=True)), aim, due)
