"""A file of JSON lines as runs: each line is started, or refused with its number and reason; none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, TYPE_CHECKING, Any, Union

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

Answer = Union["Handle", StageflowError]
Start = Callable[[Sequence[tuple[Any, str | None]]], Sequence[Answer]]
"""Starts a run for each input and idempotency key; a refusal stands in the place of what it refuses.

Without keys it starts all that are not refused, or none of them.
"""

BATCH = 100
"""Lines that are started together."""

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
    *,
    batch: int = BATCH,
    pause: Callable[[float], object],
) -> Iterator[list[Line]]:
    """Start the lines, ``batch`` at a time, and say what became of each. Raises Stopped when the engine can take no
    further line at all.
    """
    numbered_lines = iter(lines)
    while taken := list(islice(numbered_lines, batch)):
        yield from _batch([_read(number, raw, key_field) for number, raw in taken], start, pause)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A line that can be read, and waits to be started."""

    number: int
    value: Any
    key: str | None


def _read(number: int, raw: bytes, key_field: str | None) -> _Wanted | Line:
    try:
        value = strict_json(raw.decode())
        return _Wanted(number, value, key_of(value, key_field))
    except UnicodeDecodeError as error:
        return Line(number, error=f"not UTF-8 at byte {error.start + 1}")
    except (ValueError, RecursionError) as error:
        return Line(number, error=json_mistake(error) if isinstance(error, ValueError) else "nested too deep")


def _batch(taken: Sequence[_Wanted | Line], start: Start, pause: Callable[[float], object]) -> Iterator[list[Line]]:
    ended = {one.number: one for one in taken if isinstance(one, Line)}
    waiting = [one for one in taken if isinstance(one, _Wanted)]
    trouble: StageflowError | None = None
    for seconds in (*PATIENCE, None):
        waiting, trouble = _tried(waiting, start, ended)
        if not isinstance(trouble, Retryable) or seconds is None:
            break
        pause(seconds)
    yield [ended[number] for number in sorted(ended)]
    if waiting:
        raise Stopped(waiting[0].number, str(trouble)) from trouble


def _tried(waiting: list[_Wanted], start: Start, ended: dict[int, Line]) -> tuple[list[_Wanted], StageflowError | None]:
    """Start what waits. Returns what still does, and why; what started, or is to blame itself, goes to ``ended``."""
    try:
        answers = start([(one.value, one.key) for one in waiting]) if waiting else []
    except StageflowError as error:
        return waiting, error
    left: list[_Wanted] = []
    trouble: StageflowError | None = None
    for one, answer in zip(waiting, answers, strict=True):
        if not isinstance(answer, StageflowError):
            ended[one.number] = Line(one.number, answer)
        elif isinstance(answer, OF_THE_LINE):
            ended[one.number] = Line(one.number, error=str(answer))
        else:
            left.append(one)
            trouble = trouble or answer
    return left, trouble


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
