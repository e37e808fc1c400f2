"""Ages and times as people type them: ``2h30m``, ``2 hours ago``, ``yesterday``, ``2026-11-29 14:00``. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

FORMS = "an age (30m, 2h30m, 7d) or a time (2026-01-31, 2026-01-31 14:00, 2026-01-31T08:00:00Z, 14:00, yesterday)"

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)")
_WORDS = {
    "seconds": ("s", "sec", "secs", "second", "seconds"),
    "minutes": ("m", "min", "mins", "minute", "minutes"),
    "hours": ("h", "hr", "hrs", "hour", "hours"),
    "days": ("d", "day", "days"),
    "weeks": ("w", "week", "weeks"),
}
_UNIT = {word: unit for unit, words in _WORDS.items() for word in words}
_TIME_OF_DAY = re.compile(r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2})?")
_MIDNIGHTS = {"today": 0, "yesterday": 1}


def age_of(text: str) -> timedelta | None:
    """``30m``, ``2h30m``, ``1 day 6 hours``, ``2h ago``; None: it is no age. Raises OverflowError."""
    rest = text.strip().lower().removesuffix(" ago").replace(",", " ")
    total = timedelta()
    while rest := rest.strip():
        match = _PART.match(rest)
        if match is None or match[2] not in _UNIT:
            return None
        total += timedelta(**{_UNIT[match[2]]: float(match[1])})
        rest = rest[match.end() :]
    return total if text.strip().lower() not in ("", "ago") else None


def moment_of(text: str, now: datetime) -> tuple[datetime, bool] | None:
    """The moment that ``text`` means, and whether its zone was taken for granted: that of this machine.

    None: it is neither an age nor a time. Raises OverflowError.
    """
    if (age := age_of(text)) is not None:
        return now - age, False
    said = text.strip().lower()
    here = now.astimezone()
    if said == "now":
        return now, False
    if said in _MIDNIGHTS:
        said = (here - timedelta(days=_MIDNIGHTS[said])).date().isoformat()
    elif _TIME_OF_DAY.fullmatch(said):
        said = f"{here.date().isoformat()} {said.zfill(5) if len(said) < 6 else said.zfill(8)}"
    try:
        at = datetime.fromisoformat(said.upper().removesuffix(" UTC") + ("Z" if said.endswith(" utc") else ""))
    except ValueError:
        return None
    return (at, False) if at.tzinfo else (at.astimezone(), True)


def told(at: datetime) -> str:
    """A moment with its zone: ``2026-11-29 00:00:00 CET (2026-11-28T23:00:00Z)``."""
    shown = f"{at:%Y-%m-%d %H:%M:%S} {at.tzname()}"
    return shown if at.utcoffset() == timedelta() else f"{shown} ({at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ})"
