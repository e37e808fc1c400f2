"""Idempotency keys: who may name one, what it looks like, and where it lives.

A key is data: up to 255 characters of any script, compared character by character and never normalised. Two clients,
or two operations of one client, that choose the same key never meet: every store addresses a key by its whole scope.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from uuid import UUID

from stageflow_durable.duration import SHORTEST_TIMEOUT
from stageflow_durable.duration import seconds_of as duration_in_seconds
from stageflow_durable.errors import ConfigurationError, InvalidKey

MAX_CHARACTERS = 255
"""The longest key, client id or operation, in characters."""

MAX_ADDRESS_BYTES = 2600
"""The longest client id, operation and key together, in UTF-8: an index entry of PostgreSQL holds no more than 2,704
bytes.
"""

_FORBIDDEN = re.compile("([\x00-\x1f\x7f-\x9f])|([\ud800-\udfff])")
_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,200}")
_RUN_ID = re.compile(r"[A-Za-z0-9-]{1,40}")


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose key it is: ``client_id`` and ``operation``, 1 to 255 characters each.

    :raises InvalidKey: a part is empty, too long, or holds a control character.
    """

    client_id: str
    operation: str

    def __post_init__(self) -> None:
        valid_key(self.client_id, "client_id")
        valid_key(self.operation, "operation")


def valid_key(text: str, what: str = "idempotency key") -> str:
    """``text`` itself, when it is 1 to 255 characters without control characters and lone surrogates.

    :raises InvalidKey: naming ``what`` and why.
    """
    problem = _problem(text)
    if problem:
        raise InvalidKey(f"{what} {problem}")
    return text


def key_text(given: object, what: str = "idempotency key") -> str:
    """A key that an application computed, as text: whole numbers and UUIDs are written out.

    :raises InvalidKey: as :func:`valid_key`; of other types too.
    """
    told = str(given) if isinstance(given, int | UUID) and not isinstance(given, bool | Enum) else given
    return valid_key(told, what)  # type: ignore[arg-type]  # what is no text is what it refuses


def _problem(text: object) -> str | None:
    if not isinstance(text, str):
        return f"must be text, not {type(text).__name__}"
    if not text:
        return "is empty; give 1 to 255 characters"
    if len(text) > MAX_CHARACTERS:
        return f"has {len(text)} characters; at most {MAX_CHARACTERS} are allowed"
    found = _FORBIDDEN.search(text)
    if found:
        kind = "control character" if found[1] else "lone surrogate"
        return f"holds a {kind} (U+{ord(found[0]):04X}) at position {found.start()}"
    return None


def address(scope: Scope, key: str) -> tuple[str, str, str]:
    """Client id, operation and key, checked one by one and together.

    :raises InvalidKey: the key is malformed, or the three are longer than every store can index.
    """
    parts = (scope.client_id, scope.operation, valid_key(key))
    size = len("".join(parts).encode())
    if size > MAX_ADDRESS_BYTES:
        raise InvalidKey(
            f"client_id, operation and idempotency key have {size} bytes together; at most {MAX_ADDRESS_BYTES}"
        )
    return parts


def redis_key(scope: Scope, key: str, prefix: str = "stageflow:idem") -> str:
    """The name of a key's record in Redis; lengths before the parts keep ``a:b`` + ``c`` apart from ``a`` + ``b:c``.

    :raises InvalidKey: as :func:`address`.
    """
    client, operation, name = address(scope, key)
    return f"{prefix}:{len(client)}:{client}:{len(operation)}:{operation}:{name}"


def stage_key(run_id: str, stage: str) -> str:
    """The key of a stage that names none: one for a run and stage, the same in every attempt and recovery.

    It is plain ASCII, fit for an HTTP header; a stage name that is not is replaced by a digest of it.

    :raises InvalidKey: the run id has other characters than letters, digits and hyphens (they would make two pairs
        collide).
    """
    if not _RUN_ID.fullmatch(run_id):
        raise InvalidKey(f"run id {run_id[:60]!r} must be 1 to 40 letters, digits and hyphens")
    return f"sf_{run_id}_{_ascii(stage)}"


def _ascii(stage: str) -> str:
    # "~" is no plain character, so that no stage name looks like the digest of another.
    digest = hashlib.sha256(stage.encode("utf-8", "surrogatepass")).hexdigest()
    return stage if _PLAIN.fullmatch(stage) else f"~{digest[:32]}"


def seconds_of(duration: float | timedelta, what: str) -> float:
    """A duration (seconds or timedelta) in seconds.

    :raises ConfigurationError: not seconds or a timedelta, below a millisecond (which no store counts), or longer than
        ten years; names ``what``.
    """
    try:
        return duration_in_seconds(duration, low=SHORTEST_TIMEOUT)
    except ValueError as error:
        raise ConfigurationError(f"{what} {error}") from None
