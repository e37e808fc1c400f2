"""The chain of authentication codes over a run's events (RFC 2104): a changed, removed or reordered row breaks it."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class EventRow:
    """An event as stored; ``data`` is JSON text, ``at`` seconds since the epoch."""

    run: str
    seq: int
    type: str
    at: float
    data: str
    previous: str
    mac: str


def seal_tombstone(key: bytes, run: str, status: str, seq: int, head: str) -> str:
    """The code of what is left of a pruned run: nobody without the key can make one to cover a deletion."""
    message = "\x1f".join(("tombstone", run, status, str(seq), head)).encode()
    return hmac.digest(key, message, hashlib.sha256).hex()


def seal(key: bytes, run: str, seq: int, kind: str, at: float, data: str, previous: str) -> EventRow:
    """The event with its code. Without a key the chain shows accidents, not attackers."""
    message = "\x1f".join((run, str(seq), kind, repr(at), data, previous)).encode()
    mac = hmac.digest(key, message, hashlib.sha256).hex()
    return EventRow(run, seq, kind, at, data, previous, mac)
