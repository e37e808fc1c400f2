"""How large what is saved may be. Refused at the edge: every worker that carries the run reads it, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stageflow_durable.codec import decode, encode
from stageflow_durable.errors import InvalidInput

PAYLOAD_BYTES = 1_048_576
ELSEWHERE = "keep large data in a store of files or objects, and here where it is"


def within(text: str, value: Any, limit: int, what: str, field: str = "") -> str:
    """``text``, which is ``value`` encoded (ASCII: a byte a character). Raises InvalidInput naming ``field``, or the
    largest field of ``value``, when it is longer than ``limit``.
    """
    if len(text) <= limit:
        return text
    seen = value if isinstance(value, Mapping) else decode(text)
    raise InvalidInput(what, [f"{_named(seen, field)}: {too_large(len(text), limit)}"])


def too_large(size: int, limit: int) -> str:
    """What is wrong, and what to do about it."""
    return f"{size:,} bytes encoded, max_payload_bytes allows {limit:,}; {ELSEWHERE}"


def _named(value: Any, field: str) -> str:
    if not isinstance(value, Mapping) or not value:
        return field or "value"
    sizes = {str(key): len(encode(part)) for key, part in value.items()}
    largest = max(sizes, key=lambda key: sizes[key])
    return f"{f'{field}.' if field else ''}{largest} (the largest, {sizes[largest]:,} bytes)"
