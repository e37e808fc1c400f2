"""A file of JSON lines as runs: each line is started, or refused with its number and reason; none is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from stageflow_durable.cli.parameters import json_mistake, strict_json
from stageflow_durable.errors import (
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidInput,
    InvalidKey,
    Retryable,
    StageflowError,
    UnsavableValue,
)

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Handle

Start = Callable[[Any, str | None], "Handle"]
"""Starts one run from its input and its idempotency key."""

OF_THE_LINE = (InvalidInput, UnsavableValue, InvalidKey, IdempotencyParamMismatch, IdempotencyConflict)
"""What one line is to blame for; anything else would refuse every line and ends the work."""

PATIENCE = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries when the database does not answer."""


class Stopped(StageflowError):
    """The work ended before the file did; ``line`` is the first that was not started."""

    def __init__(self, line: int, why: str) -> None:
        self.line = line
        super().__init__(
            f"stopped at line {line}: {why}; the lines before it are recorded, go on with --from-line {line}"
        )


@dataclass(frozen=True, slots=True)
class Line:
    """What became of line ``number``: a ``handle``, or the ``error`` that refused it."""

    number: int
    handle: Handle | None = None
    error: str | None = None


def numbered(stream: IO[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers in the file, from ``first`` on."""
    for number, raw in enumerate(stream, 1):
        text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        if text and number >= first:
            yield number, text


def started(
    lines: Iterable[tuple[int, bytes]],
    start: Start,
    key_field: str | None,
    pause: Callable[[float], object] | None = None,
) -> Iterator[Line]:
    """Start each line. Raises Stopped when the engine can take no further line at all."""
    for number, raw in lines:
        try:
            yield _started(number, raw, start, key_field, pause or threading.Event().wait)
        except StageflowError as error:
            raise Stopped(number, str(error)) from error


def _started(number: int, raw: bytes, start: Start, key_field: str | None, pause: Callable[[float], object]) -> Line:
    try:
        value = strict_json(raw.decode())
        key = key_of(value, key_field)
    except UnicodeDecodeError as error:
        return Line(number, error=f"not UTF-8 at byte {error.start + 1}")
    except (ValueError, RecursionError) as error:
        return Line(number, error=json_mistake(error) if isinstance(error, ValueError) else "nested too deep")
    try:
        return Line(number, _patiently(lambda: start(value, key), pause))
    except OF_THE_LINE as error:
        return Line(number, error=str(error))


def _patiently(attempt: Callable[[], Handle], pause: Callable[[float], object]) -> Handle:
    for seconds in PATIENCE:
        try:
            return attempt()
        except Retryable:
            pause(seconds)
    return attempt()


def key_of(value: Any, path: str | None) -> str | None:
    """The idempotency key that stands in ``value`` at a dotted ``path``; None without a path. Raises ValueError."""
    if path is None:
        return None
    found = value
    for name in path.split("."):
        if not isinstance(found, dict) or name not in found:
            raise ValueError(f"no field {path!r} to take the key from")
        found = found[name]
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise ValueError(f"field {path!r} is {type(found).__name__}, a key is text or a whole number")
    return str(found)
