"""What comes out of a sandbox, read as what a stranger wrote."""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from stageflow_durable.sandbox.errors import ToolFailed

MOST_DEPTH = 64
"""How deep lists and objects may lie in each other in a function's value."""

_TEXT_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """How a tool ended.

    ``exit_code``: 128 and the signal's number if one ended it, None if it was ended at a limit. ``stdout``,
    ``stderr``: what is no UTF-8 in them stands as escapes. ``files``: content by name, of those that the policy takes
    out and that there were. ``value``: what a function returned, JSON; None for a command. ``usage``:
    ``wall_seconds``, ``cpu_seconds``, ``memory_bytes`` at the peak. ``backend``: what isolated it. ``limit``: the limit
    at which it was ended, or None.
    """

    exit_code: int | None
    stdout: str
    stderr: str
    files: Mapping[str, bytes]
    usage: Mapping[str, float]
    backend: str
    value: Any = None
    limit: str | None = field(default=None)

    def as_output(self) -> dict[str, Any]:
        """What a stage saves of it."""
        return {
            "exit_code": self.exit_code,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "files": dict(self.files),
            "usage": dict(self.usage),
            "backend": self.backend,
            "value": self.value,
        }


def read_result(answer: Mapping[str, Any], backend: str, secrets: Mapping[str, str]) -> SandboxResult:
    """The result from a keeper's answer, with ``***`` in the place of secrets. Raises ToolFailed for a value that is no
    JSON, or too deep, and for a file that holds a secret.
    """
    streams = {name: _unsecret(_text(answer.get(name, "")), secrets) for name in ("stdout", "stderr")}
    files = {name: b64decode(data) for name, data in answer["files"].items()}
    for name, secret in secrets.items():
        for file, data in files.items():
            if secret.encode() in data:
                raise ToolFailed(f"the file {file!r} holds the secret {name}: it is not taken out")
    code, limit = answer["exit_code"], answer["over"]
    raw = b64decode(answer.get("value", ""))
    value = read_value(raw, secrets) if code == 0 and limit is None and raw else None
    return SandboxResult(
        None if limit else code,
        **streams,
        files=files,
        usage=answer["usage"],
        backend=backend,
        value=value,
        limit=limit,
    )


def _text(encoded: str) -> str:
    return b64decode(encoded).decode("utf-8", "backslashreplace")


def _unsecret(text: str, secrets: Mapping[str, str]) -> str:
    for secret in sorted(secrets.values(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def read_value(raw: bytes, secrets: Mapping[str, str]) -> Any:
    """JSON that a stranger wrote: of bounded depth, without a secret in any text. Raises ToolFailed."""
    if _depth(raw) > MOST_DEPTH:
        raise ToolFailed(f"the function's value is more than {MOST_DEPTH} levels deep")
    try:
        value = json.loads(raw, parse_constant=_refuse, parse_float=_float)
    except ValueError as error:  # of UTF-8, JSON, or the number of an integer's digits
        raise ToolFailed(f"the function's value is no JSON: {str(error)[:200]}") from None
    return _legible(value, secrets)


def _depth(raw: bytes) -> int:
    depth = deepest = 0
    for found in _TEXT_OR_BRACKET.finditer(raw):
        first = found[0][:1]
        depth += (first in b"[{") - (first in b"]}")
        deepest = max(deepest, depth)
    return deepest


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text[:20])


def _legible(value: Any, secrets: Mapping[str, str]) -> Any:
    """Without secrets, and without halves of characters, which cannot be stored."""
    if isinstance(value, str):
        return _unsecret(value.encode("utf-8", "backslashreplace").decode(), secrets)
    if isinstance(value, dict):
        return {_legible(name, secrets): _legible(part, secrets) for name, part in value.items()}
    return [_legible(part, secrets) for part in value] if isinstance(value, list) else value
