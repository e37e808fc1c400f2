"""Ids and keys: sortable run ids, and the keys that a remote system sees."""

from __future__ import annotations

import secrets
from functools import lru_cache

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_run_id(milliseconds: int, entropy: int | None = None) -> str:
    """A ULID (26 characters of Crockford's base 32): sorts by ``milliseconds`` since the epoch; 80 random bits
    follow.
    """
    n, p = secrets.randbits(80) if entropy is None else entropy, _PAIRS
    first = f"{p[n >> 70]}{p[n >> 60 & 1023]}{p[n >> 50 & 1023]}{p[n >> 40 & 1023]}"  # a loop takes twice as long
    return f"{_time(milliseconds)}{first}{p[n >> 30 & 1023]}{p[n >> 20 & 1023]}{p[n >> 10 & 1023]}{p[n & 1023]}"


@lru_cache(maxsize=1)  # many are made in a millisecond
def _time(milliseconds: int) -> str:
    return "".join([_PAIRS[(milliseconds >> shift) & 1023] for shift in range(40, -1, -10)])


def is_run_id(text: str) -> bool:
    """Whether ``text`` has the form of an id that :func:`new_run_id` makes."""
    return len(text) == 26 and text[0] <= "7" and set(text) <= set(_ALPHABET)


def stage_key(run_id: str, stage: str, item: int = 0) -> str:
    """The key of a stage's action: stable over attempts and recoveries of the run. ``item``: which of the stage's
    items; 0: it has none.
    """
    return f"sf_{_of_item(run_id, item)}_{stage}"


def undo_key(run_id: str, stage: str, item: int = 0) -> str:
    """The key of a stage's undo."""
    return f"sf_{_of_item(run_id, item)}_{stage}_undo"


def _of_item(run_id: str, item: int) -> str:
    # Before the stage, whose name may be any text: so no two are equal.
    return f"{run_id}.{item}" if item else run_id
