"""What a log may repeat of what came from outside: short, on one line, without passwords."""

from __future__ import annotations

import re

from stageflow_durable.engine.tell import one_line

LENGTH = 300
"""Characters that are kept."""

_PASSWORD = re.compile(r"(\w+://[^\s:/@]*:)\S*@")


def said(text: object) -> str:
    """``text``, or its repr, for a log. Whatever its own methods raise is said instead."""
    try:
        read = text if isinstance(text, str) else repr(text)
    except Exception as error:  # noqa: BLE001  # of an object that is not ours
        read = f"<{type(text).__name__} that cannot be shown: {type(error).__name__}>"
    kept = _PASSWORD.sub(r"\1***@", read[: 4 * LENGTH])
    return one_line(kept if len(kept) <= LENGTH else f"{kept[:LENGTH]}…")


def said_of(error: BaseException) -> str:
    """An error's type and text, for a log."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  # of an error that is not ours
        text = ""
    return f"{type(error).__name__}: {said(text)}" if text else type(error).__name__
