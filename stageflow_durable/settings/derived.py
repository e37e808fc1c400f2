"""Keys that are derived from the audit key, one for each purpose, and signatures by them."""

from __future__ import annotations

import hmac
from hashlib import sha256

_SALT = b"stageflow_durable"

SIGNATURE_BYTES = 16
"""Of a signature: 128 bits of SHA-256, which nobody finds by trying."""


def derived(audit_key: str, purpose: bytes) -> bytes:
    """The key for ``purpose``, by HKDF-SHA256 (RFC 5869): one that is found out says nothing of the audit key, and what
    one of them signs means nothing to another.
    """
    extracted = hmac.digest(_SALT, audit_key.encode(), sha256)
    return hmac.digest(extracted, purpose + b"\x01", sha256)


def signature(key: bytes, said: str) -> str:
    """The signature of a text, in hexadecimal digits."""
    return hmac.digest(key, said.encode(), "sha256")[:SIGNATURE_BYTES].hex()
