"""Numbers and ages as options of the command."""

from __future__ import annotations

import math
from typing import Any

import click

from stageflow_durable.moments import age_of


class Seconds(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4, not before
    """Seconds as a number, or an age: ``30``, ``1.5``, ``2m``; finite, and at least ``low``."""

    name = "seconds"

    def __init__(self, low: float = 0.0) -> None:
        self._low = low

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds. Fails with what is allowed."""
        try:
            age = age_of(value) if isinstance(value, str) else None
            seconds = float(value) if age is None else age.total_seconds()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a number of seconds, nor an age like 30s, 2m, 1h", param, ctx)
        if not math.isfinite(seconds) or seconds < self._low:
            self.fail(f"{value!r}: at least {self._low:g} seconds, and finite", param, ctx)
        return seconds


class Finite(click.FloatRange):
    """A number in a range, and a number: ``nan`` compares with nothing, so a range alone lets it through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails when it is none."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number
