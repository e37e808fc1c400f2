"""How numbers, times and states read: ages for people, short but unambiguous ids."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from stageflow_durable.model.status import RunStatus, StageState, StepState

SHORT_ID = 12
"""Characters of a run id that people see; more where that many are not enough to tell two apart."""

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def age(since: datetime, now: datetime) -> str:
    """How long ago: ``4s``, ``14m``, ``3h``, ``2d``; never negative, clocks differ a little."""
    seconds = max(0.0, (now - since).total_seconds())
    return next((f"{int(seconds // size)}{unit}" for size, unit in _UNITS if seconds >= size), f"{int(seconds)}s")


def duration(seconds: float) -> str:
    """How long it took: ``4 ms``, ``9.8 s``, ``2.5 min``, ``3.1 h``."""
    if seconds < 0.9995:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5997 else f"{seconds / 3600:.1f} h"


def delay(seconds: float) -> str:
    """How long until the next attempt: ``+40ms``, ``+1.2s``, ``+5m``."""
    if seconds < 1:
        return f"+{seconds * 1000:.0f}ms"
    return f"+{seconds:.3g}s" if seconds < 120 else f"+{seconds / 60:.3g}m"


def clock(at: datetime, now: datetime) -> str:
    """A point in time for people: ``03:02:11 UTC``, with the date when it was not within a day."""
    at = at.astimezone(UTC)
    return at.strftime("%H:%M:%S UTC" if abs(now - at) < timedelta(days=1) else "%Y-%m-%d %H:%M:%S UTC")


def shown_length(run_ids: Iterable[str]) -> int:
    """How many characters tell these ids apart, at least :data:`SHORT_ID`."""
    ids = sorted(set(run_ids))
    return max([SHORT_ID, *(_shared(one, other) + 1 for one, other in pairwise(ids))])


def _shared(one: str, other: str) -> int:
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def progress(of: object) -> str:
    """``73 %`` of a share, ``4 of 10`` of a count; else as it was given."""
    if isinstance(of, float) and 0 <= of <= 1:
        return f"{of * 100:.0f} %"
    if isinstance(of, dict) and of.keys() == {"done", "of"}:
        return f"{of['done']} of {of['of']}"
    if isinstance(of, float):
        return f"{of:g}"
    if isinstance(of, dict):
        return clipped(", ".join(f"{name} {value}" for name, value in of.items()), 60)
    return clipped(str(of), 60)


def clipped(text: str, most: int) -> str:
    """``text`` on one line, at most ``most`` characters."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


def counted(number: int, what: str) -> str:
    """``1 run``, ``3 runs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


_R, _S, _U = RunStatus, StageState, StepState

STATUS_STYLE: dict[RunStatus, str] = {
    _R.PENDING: "dim",
    _R.RUNNING: "cyan",
    _R.WAITING: "cyan",
    _R.STOPPING: "yellow",
    _R.COMPENSATING: "yellow",
    _R.PARKED: "bold yellow",
    _R.SUCCEEDED: "green",
    _R.FAILED: "bold red",
    _R.CANCELLED: "dim",
    _R.COMPENSATED: "magenta",
    _R.COMPENSATION_FAILED: "bold red",
}
STAGE_STYLE: dict[StageState, str] = {
    _S.PENDING: "dim",
    _S.RUNNING: "cyan",
    _S.WAITING: "cyan",
    _S.OK: "green",
    _S.SKIPPED: "dim",
    _S.FAILED: "bold red",
    _S.UNKNOWN: "bold yellow",
    _S.CANCELLED: "dim",
    _S.UNDONE: "magenta",
}
STEP_STYLE: dict[StepState, str] = {_U.COMPENSATION_FAILED: "bold red", _U.COMPENSATING: "yellow"}
"""Of an undo; dim where nothing is the matter."""

STEP_WORD: dict[StepState, str] = {
    _U.INTENDED: "",
    _U.RECORDED: "",
    _U.VOID: "not needed",
    _U.COMPENSATING: "running",
    _U.COMPENSATED: "done",
    _U.SKIPPED: "skipped",
    _U.COMPENSATION_FAILED: "FAILED",
}
"""What is said behind ``undo: name``; nothing while it is merely owed."""
