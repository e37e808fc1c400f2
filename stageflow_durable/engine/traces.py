"""Tracebacks for the log: only such as can be written, so that logging never raises where work did not."""

from __future__ import annotations

import traceback
from types import TracebackType

from stageflow_durable.engine.redaction import is_long, is_sql

Info = tuple[type[BaseException], BaseException, TracebackType | None]

MOST = 50
"""Of an error with more causes and members behind it no traceback is written."""


def loggable(error: BaseException | None) -> Info | None:
    """``exc_info`` for the log, or None: for a database's error, whose traceback shows what was asked; for one with too
    much behind it; for one that cannot be written.
    """
    if error is None or is_sql(error) or is_long(error, MOST):
        return None
    try:
        trace = BaseException.__dict__["__traceback__"].__get__(error)  # its own class may have another
        # Without its frames, which take ten times as long: those are no code of strangers.
        "".join(traceback.format_exception(type(error), error, trace, limit=0)).encode()
    except BaseException:  # noqa: BLE001  # a stranger's error, whose own code was asked
        return None
    return type(error), error, trace
