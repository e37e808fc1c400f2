"""Where an error was raised, as text that may be stored and shown: the application's frames first, innermost on top,
without locals, masked, and bounded. It is ASCII, since a database need not hold every character; the error's own text
stands beside it as it is.
"""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from traceback import walk_tb
from types import CodeType

from stageflow_durable.engine.outcome import Again, Outcome, Over, text_of
from stageflow_durable.masking import masked
from stageflow_durable.retry.look import attribute, is_a

MOST_BYTES = 8_000
"""Of a traceback."""

MOST_FRAMES = 20
"""Of each kind, of one error; a recursion has a thousand."""

MOST_CAUSES = 5
MOST_LINE = 200
"""Characters of a line of source."""

CUT = "\n... cut"
_OWN = str(Path(__file__).parent.parent)
_LIBRARIES = tuple(
    {path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def trace_of(error: object) -> str | None:
    """Where an error was raised, and what it was raised from; None for what was raised nowhere. Never raises, even if
    the error's own code does.
    """
    try:
        if not is_a(error, BaseException) or attribute(error, "__traceback__") is None:
            return None
        return _bounded(masked("\n".join(_lines(error))))
    except BaseException:  # noqa: BLE001  # a traceback is a help; without it the attempt ends as it would
        return None


def traced(outcome: Outcome) -> Outcome:
    """The same outcome; of a failure, with where its error was raised."""
    if not isinstance(outcome, Again | Over):
        return outcome
    trace = trace_of(outcome.error)
    return outcome if trace is None else replace(outcome, failure=replace(outcome.failure, trace=trace))


def _lines(error: object) -> Iterator[str]:
    seen: set[int] = set()
    while is_a(error, BaseException) and id(error) not in seen and len(seen) < MOST_CAUSES:
        yield text_of(error) if not seen else f"caused by {text_of(error)}"
        seen.add(id(error))
        yield from _frames(error)
        assert is_a(error, BaseException)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(error: BaseException) -> Iterator[str]:
    ours: list[str] = []
    others: list[str] = []
    for frame, line in walk_tb(error.__traceback__):
        code = frame.f_code
        if code.co_filename.startswith(_OWN):
            continue  # the engine's: they say nothing about the application
        (others if code.co_filename.startswith((*_LIBRARIES, "<frozen")) else ours).append(_told(code, line))
    yield from _innermost(ours)
    if others:
        yield "  in libraries:"
        yield from _innermost(others)


def _innermost(frames: list[str]) -> Iterator[str]:
    yield from islice(reversed(frames), MOST_FRAMES)
    if len(frames) > MOST_FRAMES:
        yield f"  ... {len(frames) - MOST_FRAMES} more"


def _told(code: CodeType, line: int) -> str:
    source = linecache.getline(code.co_filename, line).strip()[:MOST_LINE]
    return f"  at {code.co_filename}:{line} in {code.co_qualname}{': ' if source else ''}{source}"


def _bounded(text: str) -> str:
    plain = text.replace("\x00", "\\x00").encode("ascii", "backslashreplace").decode()
    return plain if len(plain) <= MOST_BYTES else plain[: MOST_BYTES - len(CUT)] + CUT
