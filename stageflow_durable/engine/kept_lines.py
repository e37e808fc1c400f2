"""The log lines of an attempt: what its code writes through ``logging`` while it runs, as text that may be stored and
shown: masked, legible, and bounded. Which attempt a line belongs to is said by the context in which it is written.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from stageflow_durable.engine.redaction import LONGEST
from stageflow_durable.engine.services import lines_of_attempt
from stageflow_durable.engine.tracing import trace_of
from stageflow_durable.legible import legible
from stageflow_durable.masking import masked
from stageflow_durable.retry.look import name_of, text

MOST_LINE = 1_000
"""Characters of a line."""

MOST_MESSAGE = 8_000
"""Characters of a record, whose message may have many lines, after it was masked."""

CUT = "... cut"
OWN = ("stageflow.", "stageflow_durable.")


class Kept:
    """Lines up to a number of bytes, as they are stored: half of them the first ones, half the last ones. Several
    threads may add.
    """

    def __init__(self, most: int) -> None:
        self._room = most // 2
        self._most_last = most - most // 2
        self._first: list[str] = []
        self._last: deque[tuple[str, int]] = deque()
        self._of_last = 0
        self._left_out = 0
        self._adding = threading.Lock()

    def add(self, lines: Sequence[str]) -> None:
        """Add lines, which belong together."""
        fitting = [_fitting(line, self._most_last) for line in lines]
        with self._adding:
            for line, size in fitting:
                if not self._last and not self._left_out and size <= self._room:
                    self._first.append(line)
                    self._room -= size
                    continue
                self._last.append((line, size))
                self._of_last += size
                while self._of_last > self._most_last:
                    self._of_last -= self._last.popleft()[1]
                    self._left_out += 1

    def text(self) -> str:
        """All of them, as JSON."""
        with self._adding:
            gap = [f"... {self._left_out:,} lines left out ..."] if self._left_out else []
            return json.dumps([*self._first, *gap, *(line for line, _size in self._last)], separators=(",", ":"))


def _fitting(line: str, most: int) -> tuple[str, int]:
    """A line that takes at most a quarter of ``most`` bytes, and how many it takes."""
    if len(line) > MOST_LINE:
        line = line[: MOST_LINE - len(CUT)] + CUT
    size, most = _size(line), most // 4
    while size > most and line != CUT:
        line = line.removesuffix(CUT)
        line = line[: max(0, len(line) * most // size - len(CUT))] + CUT
        size = _size(line)
    return line, size


def _size(line: str) -> int:
    return len(json.dumps(line)) + 1


class Keeper(logging.Handler):
    """Keeps the lines of attempts. It stands beside the handlers of the application; what reaches them reaches it."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def createLock(self) -> None:  # noqa: N802  # so it is called there
        """None is needed: each attempt has its own, which is held for no code but ours."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, if an attempt's code wrote it. Whatever is wrong with the record, the body goes on."""
        if self._logger.handlers == [self]:
            _print_as_python_would(record, self)
        lines = lines_of_attempt.get()
        if lines is None or f"{record.name}.".startswith(OWN) or self._comes_by_another():
            return
        try:
            if lines.kept is None:
                lines.kept = Kept(lines.most)
            lines.kept.add(_told(record))
        except Exception:  # noqa: BLE001  # a line is a help; and saying so would be another line
            return

    def _comes_by_another(self) -> bool:
        """Whether the root logger's handler gets the same record."""
        return self._logger is not logging.root and self._logger.propagate


def _print_as_python_would(record: logging.LogRecord, ours: logging.Handler) -> None:
    """Where nobody has set up logging Python prints warnings, as long as there is no handler at all."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(handler is not ours for handler in logger.handlers):
            return
        logger = logger.parent if logger.propagate else None
    if logging.lastResort is not None and record.levelno >= logging.lastResort.level:
        logging.lastResort.handle(record)


def _told(record: logging.LogRecord) -> list[str]:
    """A record as lines: those after the first are indented, so that none of them passes for a record."""
    at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    head = f"{at}Z {record.levelname} {record.name}: "
    error = record.exc_info[1] if record.exc_info else None
    trace = None if error is None else trace_of(error)
    said = masked(_message(record))
    first, *others = (said if len(said) <= MOST_MESSAGE else said[:MOST_MESSAGE] + CUT).split("\n")
    lines = [f"{head}{first}", *(f"  {line}" for line in others), *(f"  {line}" for line in (trace or "").split("\n"))]
    return [f"{line[: len(line) - len(line.lstrip(' '))]}{legible(line.lstrip(' '))}" for line in lines if line.strip()]


def _message(record: logging.LogRecord) -> str:
    try:
        said = record.getMessage()
    except Exception as why:  # noqa: BLE001  # the application's own code, or arguments that do not fit
        return f"{text(record.msg, LONGEST)} (its arguments do not fit: {name_of(type(why))})"
    return text(said, LONGEST)


# --- where the lines come from ----------------------------------------------------------------------------------------


_SOURCES = ("", "celery.task")
"""The root logger, and that of Celery's tasks, which does not propagate in a worker."""

_changing = threading.Lock()
_users = 0


def keep_lines() -> None:
    """Keep the lines of attempts from now on; once a process, after its logging was set up."""
    for name in _SOURCES:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, Keeper) for handler in logger.handlers):
            logger.addHandler(Keeper(logger))


@contextmanager
def keeping_lines() -> Iterator[None]:
    """Keep them meanwhile: the process is not ours, and may still set up its logging."""
    global _users  # noqa: PLW0603  # the loggers are the process's too
    with _changing:
        _users += 1
        keep_lines()
    try:
        yield
    finally:
        with _changing:
            _users -= 1
            if not _users:
                _stop()


def _stop() -> None:
    for name in _SOURCES:
        logger = logging.getLogger(name)
        for handler in [one for one in logger.handlers if isinstance(one, Keeper)]:
            logger.removeHandler(handler)
