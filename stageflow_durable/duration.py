"""Durations as people give them, seconds or a ``timedelta``: read and bounded in one place for the whole package.

Whatever is out of bounds is refused where it is given. Later it would overflow a timer, a ``timestamp`` or a database's
type, in the middle of a stage.
"""

from __future__ import annotations

import math
from datetime import timedelta

LONGEST = timedelta(days=3650).total_seconds()
"""Seconds; a longer duration is a mistake, or means "for ever", for which None stands."""

SHORTEST_TIMEOUT = 0.001
"""Seconds; below it a timer rings before what it bounds has begun."""


def seconds_of(given: object, *, low: float = 0.0, high: float = LONGEST, above: bool = False) -> float:
    """``given`` (seconds or a timedelta) in seconds, from ``low`` to ``high``; ``above``: more than ``low``.

    Raises ValueError saying what is allowed: for other types (True and text among them), NaN, infinity, and whatever
    is out of bounds.
    """
    if not is_duration(given, low=low, high=high, above=above):
        raise ValueError(f"must be {allowed(low, high, above=above)}, not {shown(given)}")
    return _number(given)


def is_duration(given: object, *, low: float = 0.0, high: float = LONGEST, above: bool = False) -> bool:
    """Whether :func:`seconds_of` takes it."""
    number = _number(given)
    return low <= number <= high and not (above and number == low)  # NaN fails every comparison


def allowed(low: float = 0.0, high: float = LONGEST, *, above: bool = False) -> str:
    """The bounds in words."""
    return f"seconds or a timedelta, {'more than' if above else 'at least'} {low:g} s and at most {_in_words(high)}"


def shown(given: object) -> str:
    """``repr``, shortened, of what may have none."""
    try:
        text = repr(given)
    except Exception:  # noqa: BLE001  # whatever it is, it is to be refused and not to fail here
        return f"an object of type {type(given).__name__}"
    return text if len(text) <= 80 else f"{text[:79]}…"


def _number(given: object) -> float:
    if isinstance(given, timedelta):
        return given.total_seconds()
    if isinstance(given, bool) or not isinstance(given, int | float):
        return math.nan
    try:
        return float(given)
    except OverflowError:  # an integer that no float holds
        return math.inf if given > 0 else -math.inf


def _in_words(seconds: float) -> str:
    return "ten years" if seconds == LONGEST else f"{seconds:g} s"
