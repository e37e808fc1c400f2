"""Ending on a signal as on an error: through every clean-up."""

from __future__ import annotations

from types import FrameType
from typing import NoReturn


def end(number: int, frame: FrameType | None) -> NoReturn:
    """A signal's handler."""
    raise SystemExit(128 + number)
