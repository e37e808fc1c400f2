"""Keys that are derived from the audit key, one for each purpose."""

from __future__ import annotations

import hmac
from hashlib import sha256

_SALT = b"stageflow_durable"


def derived(audit_key: str, purpose: bytes) -> bytes:
    """The key for ``purpose``, by HKDF-SHA256 (RFC 5869): one that is found out says nothing of the audit key, and what
    one of them signs means nothing to another.
    """
    extracted = hmac.digest(_SALT, audit_key.encode(), sha256)
    return hmac.digest(extracted, purpose + b"\x01", sha256)
