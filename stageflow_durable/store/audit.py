"""The chain of authentication codes over a run's events (RFC 2104): a changed, removed or reordered row breaks it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

_BLOCK = 64


class EventRow(NamedTuple):
    """An event as stored; ``data`` is JSON text, ``at`` seconds since the epoch."""

    run: str
    seq: int
    type: str
    at: float
    data: str
    previous: str
    mac: str


@lru_cache(maxsize=16)
def _keyed(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """The two hashes of HMAC-SHA256 (RFC 2104) with the key taken in already, to be copied: ``hmac.digest`` looks its
    algorithm up anew at each call, which costs as much as five of these codes.
    """
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    return inner, outer


def code(key: bytes, message: bytes) -> str:
    """HMAC-SHA256 of ``message``, as hexadecimal text."""
    inner, outer = _keyed(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.hexdigest()


def old_tombstone_code(key: bytes, run: str, status: str, seq: int, head: str) -> str:
    """The code of a tombstone as earlier releases made it: it covers four of its columns."""
    message = "\x1f".join(("tombstone", run, status, str(seq), head)).encode()
    return code(key, message)


def seal(key: bytes, run: str, seq: int, kind: str, at: float, data: str, previous: str, *, item: int = 0) -> EventRow:
    """The event with its code. Without a key the chain shows accidents, not attackers. ``item``: whose chain it is."""
    whose = f"{run}#{item}" if item else run
    message = "\x1f".join((whose, str(seq), kind, repr(at), data, previous)).encode()
    return EventRow(run, seq, kind, at, data, previous, code(key, message))


NOTHING = "0" * 64
"""The sum of no codes."""


def sum_of_codes(codes: Iterable[str]) -> str:
    """The sum of codes, modulo 2²⁵⁶: the same in whichever order they are added. What is no code counts nothing: it was
    written by a stranger, whom the audit finds.
    """
    return f"{sum(map(_number, codes)) % 2**256:064x}"


def _number(code: str) -> int:
    try:
        return int(code, 16)
    except ValueError:
        return 0
