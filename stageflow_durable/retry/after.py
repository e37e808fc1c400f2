"""``Retry-After``: when a remote says how long to stay away (RFC 9110, section 10.2.3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from stageflow_durable.retry.look import attribute, header

LONGEST = timedelta(days=366).total_seconds()
"""Seconds; a remote that asks for more is taken to be mistaken, and ignored."""

_SECONDS = re.compile(r"\d{1,12}(\.\d{1,9})?", re.ASCII)


def parse_retry_after(value: object, now: datetime | float) -> float | None:
    """Return the seconds from ``now`` that ``value`` asks to wait, or None when it cannot be understood.

    ``value``: a header's text (seconds or an HTTP date in any of its three forms), seconds, a ``timedelta``, an aware
    ``datetime``, or None. ``now``: an aware ``datetime``, or seconds since the epoch. Malformed, negative, past,
    naive or absurd (over a year): None, as a client is to ignore what it cannot use.
    """
    seconds = _seconds(value, now)
    return seconds if seconds is not None and 0 <= seconds <= LONGEST else None


def retry_after_of(error: BaseException, now: datetime | float) -> float | None:
    """Return the seconds that a raised error asks to wait, or None.

    Looked for by shape, whatever the client library: a ``Retry-After`` in ``error.response.headers`` or
    ``error.headers``, else ``error.retry_after``, as :class:`TransientError` has it.
    """
    for holder in (attribute(error, "response"), error):
        asked = header(holder, "Retry-After")
        if asked is not None:
            return parse_retry_after(asked, now)
    return parse_retry_after(attribute(error, "retry_after"), now)


def _seconds(value: object, now: datetime | float) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if abs(value) <= LONGEST else None
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return None if value.utcoffset() is None else _until(value, now)
    return _from_text(value.strip(), now) if isinstance(value, str) else None


def _from_text(text: str, now: datetime | float) -> float | None:
    if _SECONDS.fullmatch(text):
        return float(text)
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return _until(date if date.tzinfo else date.replace(tzinfo=UTC), now)  # an HTTP date is UTC, said or not


def _until(date: datetime, now: datetime | float) -> float:
    return date.timestamp() - (now.timestamp() if isinstance(now, datetime) else now)
