"""How an engine's own worker writes its log: a record is one line, whatever is in it. An adopted application's logging
is its own.
"""

from __future__ import annotations

import logging
from copy import copy
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.app.log import Logging

from stageflow_durable.delivery import process as worker_process
from stageflow_durable.engine.attempt_log import one_line

NO_CONSUMERS = "Requeuing undeliverable message"
"""Of a message that came while the worker was stopping: it goes back to its queue, as it should."""


class OneLine(logging.Formatter):
    r"""Writes as ``usual`` does, with line breaks as ``\n``, other control characters as ``\x1b``; tracebacks too."""

    def __init__(self, usual: logging.Formatter) -> None:
        super().__init__()
        self._usual = usual

    def format(self, record: logging.LogRecord) -> str:
        """The record on one line."""
        plain = copy(record)  # others may be handed the same record
        plain.msg, plain.args = one_line(self._whole(record)), ()
        plain.exc_info = plain.exc_text = plain.stack_info = None
        return self._usual.format(plain)

    def _whole(self, record: logging.LogRecord) -> str:
        told = [record.getMessage()]
        kind = record.exc_info[0] if record.exc_info else None
        # Of a child that was killed the traceback shows who noticed, which is always the same.
        if kind is None or not issubclass(kind, WorkerLostError):
            if record.exc_text:
                told.append(record.exc_text)
            elif record.exc_info and kind is not None:
                told.append(self._usual.formatException(record.exc_info))
        if record.stack_info:
            told.append(record.stack_info)
        return "\n".join(part.rstrip("\n") for part in told)


def _is_news(record: logging.LogRecord) -> bool:
    return not (worker_process.stopping and str(record.msg).startswith(NO_CONSUMERS))


class OneLineLogging(Logging):  # type: ignore[misc]  # Celery has no types
    """Celery's logging with :class:`OneLine` around each formatter that it makes itself."""

    def setup_handlers(self, logger: Any, *given: Any, **options: Any) -> Any:
        """As Celery does; handlers that were there before are somebody else's."""
        before = list(logger.handlers)
        super().setup_handlers(logger, *given, **options)
        for handler in logger.handlers:
            if handler not in before and handler.formatter is not None:
                handler.setFormatter(OneLine(handler.formatter))
                handler.addFilter(_is_news)
        return logger
