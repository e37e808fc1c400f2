"""A file of JSON lines as runs: each line is started, or refused with its number and reason; none is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Union

from stageflow_durable.cli.reading import MOST_BYTES, not_decoded
from stageflow_durable.codec import json_mistake, strict_json
from stageflow_durable.errors import (
    IdempotencyConflict,
    IdempotencyParamMismatch,
    InvalidInput,
    InvalidKey,
    Retryable,
    RunBusy,
    StageflowError,
    StoreRefused,
    StoreUnavailable,
    UnsavableValue,
)

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Handle


@dataclass(frozen=True, slots=True)
class Wanted:
    """A line that can be read, and waits to be started: under its ``key``, or as the run ``run_id``."""

    number: int
    value: Any
    key: str | None
    run_id: str | None


Answer = Union["Handle", StageflowError]
Start = Callable[[Sequence[Wanted]], Sequence[Answer]]
"""Starts a run for each line; a refusal stands in the place of what it refuses.

Without keys it starts all that are not refused, or none of them; which of both is not known after StoreUnavailable,
when the answer to a commit was lost. Given the same lines again it starts none twice: they have a key or a run's id.
"""

BATCH = 100
"""Lines that are started together."""

OF_THE_LINE = (InvalidInput, UnsavableValue, InvalidKey, IdempotencyParamMismatch, IdempotencyConflict)
"""What one line is to blame for; anything else would refuse every line and ends the work."""

PATIENCE = (0.5, 1.0, 2.0, 4.0)
"""Seconds between tries when the database does not answer."""


class Stopped(StageflowError):
    """The work ended before the file did; ``line`` is the first that was not started. ``doubtful``: the last that may
    be recorded nevertheless, because an answer was lost.
    """

    def __init__(self, line: int, why: str, doubtful: int | None = None) -> None:
        self.line = line
        lines = f"lines {line} to {doubtful}" if doubtful != line else f"line {line}"
        look = (
            f"; {lines} may be recorded too, if only the database's answer was lost: look first, "
            "stageflow runs --since 10m"
        )
        super().__init__(
            f"stopped at line {line}: {why}; the lines before it are recorded, go on with --from-line {line}"
            f"{look if doubtful is not None else ''}"
        )


@dataclass(frozen=True, slots=True)
class Line:
    """What became of line ``number``: a ``handle``, or the ``error`` that refused it."""

    number: int
    handle: Handle | None = None
    error: str | None = None


def numbered(lines: Iterable[bytes], first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers in the file, from ``first`` on."""
    for number, raw in enumerate(lines, 1):
        text = raw.strip()
        if text and number >= first:
            yield number, text


def started(
    lines: Iterable[tuple[int, bytes]],
    start: Start,
    key_field: str | None,
    *,
    batch: int = BATCH,
    pause: Callable[[float], object],
    new_id: Callable[[], str],
) -> Iterator[list[Line]]:
    """Start the lines, ``batch`` at a time, and say what became of each. ``new_id`` makes the ids of runs without keys.
    Raises Stopped when the engine can take no further line at all.
    """
    numbered_lines = iter(lines)
    while taken := list(islice(numbered_lines, batch)):
        yield from _batch([_read(number, raw, key_field, new_id) for number, raw in taken], start, pause)


def _read(number: int, raw: bytes, key_field: str | None, new_id: Callable[[], str]) -> Wanted | Line:
    if len(raw) >= MOST_BYTES:
        return Line(number, error=f"longer than {MOST_BYTES} bytes, which no input may be")
    try:
        value = strict_json(raw.decode())
        key = key_of(value, key_field)
        # Made once a line, whatever the number of tries: a try that was recorded without our knowing is found again.
        return Wanted(number, value, key, new_id() if key is None else None)
    except UnicodeDecodeError as error:
        return Line(number, error=not_decoded("utf-8", error))
    except ValueError as error:
        return Line(number, error=json_mistake(error))


def _batch(taken: Sequence[Wanted | Line], start: Start, pause: Callable[[float], object]) -> Iterator[list[Line]]:
    ended = {one.number: one for one in taken if isinstance(one, Line)}
    waiting = [one for one in taken if isinstance(one, Wanted)]
    trouble: StageflowError | None = None
    lost = False
    for seconds in (*PATIENCE, None):
        waiting, trouble = _tried(waiting, start, ended)
        lost = lost or (isinstance(trouble, StoreUnavailable) and not isinstance(trouble, RunBusy | StoreRefused))
        if not isinstance(trouble, Retryable) or seconds is None:
            break
        pause(seconds)
    yield [ended[number] for number in sorted(ended)]
    if waiting:
        doubtful = max((one.number for one in waiting if lost and one.key is None), default=None)
        raise Stopped(waiting[0].number, str(trouble), doubtful) from trouble


def _tried(waiting: list[Wanted], start: Start, ended: dict[int, Line]) -> tuple[list[Wanted], StageflowError | None]:
    """Start what waits. Returns what still does, and why; what started, or is to blame itself, goes to ``ended``."""
    try:
        answers = start(waiting) if waiting else []
    except StageflowError as error:
        return waiting, error
    left: list[Wanted] = []
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
