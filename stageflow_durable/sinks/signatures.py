"""Signing what is sent to a webhook, as Standard Webhooks has it: receivers find a library in every language."""

from __future__ import annotations

import base64
import binascii
import hmac
from hashlib import sha256

from stageflow_durable.errors import ConfigurationError

PREFIX = "whsec_"

_MAKE = "make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'"


def key_of(secret: object) -> bytes:
    """The key that a secret stands for: ``whsec_`` and base64, or any text of at least 16 characters. Raises
    ConfigurationError, without the secret.
    """
    if not isinstance(secret, str) or len(secret) < 16:
        raise ConfigurationError(f"the secret of a webhook must have at least 16 characters; {_MAKE}")
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ConfigurationError(
            f"the secret of a webhook begins with {PREFIX}, but base64 must follow; {_MAKE}"
        ) from None


def signed(key: bytes, message_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent a body, and when."""
    text = f"{message_id}.{seconds}.".encode() + body
    code = base64.b64encode(hmac.new(key, text, sha256).digest()).decode()
    return {"webhook-id": message_id, "webhook-timestamp": str(seconds), "webhook-signature": f"v1,{code}"}
