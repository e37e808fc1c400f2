"""What a log may repeat of what came from outside: short, on one line, masked."""

from __future__ import annotations

from stageflow_durable.engine.attempt_log import one_line
from stageflow_durable.settings.masking import masked

LENGTH = 300
"""Characters that are kept."""

_READ = 10_000
"""Characters that are looked at: a password may be long, and is masked before its text is cut."""


def said(text: object) -> str:
    """``text``, or its repr, for a log. Whatever its own methods raise is said instead."""
    try:
        read = text if isinstance(text, str) else repr(text)
    except Exception as error:  # noqa: BLE001  # of an object that is not ours
        read = f"<{type(text).__name__} that cannot be shown: {type(error).__name__}>"
    kept = masked(read[:_READ])
    return one_line(kept if len(kept) <= LENGTH else f"{kept[:LENGTH]}…")


def said_of(error: BaseException) -> str:
    """An error's type and text, for a log."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # of an error that is not ours
        text = ""
    return f"{type(error).__name__}: {said(text)}" if text else type(error).__name__
