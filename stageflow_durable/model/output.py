"""What a stage says about itself when it returns: an explicit envelope, so that absence is never taken for
falsiness.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from stageflow_durable.duration import is_duration, seconds_of, shown


class OutputKind(StrEnum):
    """How a stage ended, in its own words."""

    OK = "ok"
    SKIP = "skip"
    RETRY = "retry"
    FAIL = "fail"
    REJECT = "reject"
    CANCEL = "cancel"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class StageOutput:
    """The answer of a stage body. Build it with the class methods.

    ``value``: what ``ok`` saves (any JSON value, falsy ones included). ``error``: a message or an exception.
    ``after``: lower bound of a retry's delay: seconds, an HTTP date, or None. ``timeout``: how many seconds ``wait``
    waits at the most. ``pause``: the name of a limit that ``retry`` pauses.
    """

    kind: OutputKind
    value: Any = None
    error: str | BaseException | None = None
    after: float | str | datetime | None = None
    timeout: float | None = None
    pause: str | None = None

    @classmethod
    def ok(cls, value: Any = None, /, **fields: Any) -> StageOutput:
        """The stage is done; save ``value`` or the named ``fields`` (one or the other: TypeError for both)."""
        if fields and value is not None:
            raise TypeError("StageOutput.ok takes a value or named fields, not both")
        return cls(OutputKind.OK, value=fields or value)

    @classmethod
    def skip(cls, reason: str) -> StageOutput:
        """The stage had nothing to do; what follows runs, nothing is undone for it."""
        return cls(OutputKind.SKIP, error=reason)

    @classmethod
    def retry(
        cls,
        error: str | BaseException,
        after: float | str | datetime | None = None,
        *,
        pause: str | None = None,
    ) -> StageOutput:
        """Try again later; ``after`` (seconds, ``Retry-After`` header, HTTP date) is a lower bound of the delay.
        ``pause``: a limit of the stage, by name, of which nobody gets anything for as long: the others need not find
        out by themselves that it is too much. It is paused for this stage's key, or where it has none, for all.
        """
        return cls(OutputKind.RETRY, error=error, after=after, pause=pause)

    @classmethod
    def fail(cls, error: str | BaseException) -> StageOutput:
        """The stage failed; the error is classified as if it had been raised, a plain message is permanent."""
        return cls(OutputKind.FAIL, error=error)

    @classmethod
    def reject(cls, reason: str) -> StageOutput:
        """Failed for good, and vouched: nothing happened, there is nothing to undo for this stage."""
        return cls(OutputKind.REJECT, error=reason)

    @classmethod
    def wait(cls, *, timeout: float | timedelta) -> StageOutput:
        """The stage has started something outside, which calls ``ctx.callback_url()`` when it is done: what it sends is
        the stage's output. Until then the stage waits as a row, without a worker.

        ``timeout``: how long, in seconds or as a timedelta, at most ten years. After it the stage's outcome is unknown.
        Raises TypeError or ValueError for what is no such time.
        """
        if isinstance(timeout, bool) or not isinstance(timeout, int | float | timedelta):
            raise TypeError(f"StageOutput.wait(timeout={shown(timeout)}): seconds or a timedelta are needed")
        if not is_duration(timeout, above=True):
            raise ValueError(f"StageOutput.wait(timeout={shown(timeout)}): more than 0 and at most ten years")
        return cls(OutputKind.WAIT, timeout=seconds_of(timeout))

    @classmethod
    def cancel(cls, reason: str) -> StageOutput:
        """End the run: what was done is undone."""
        return cls(OutputKind.CANCEL, error=reason)
