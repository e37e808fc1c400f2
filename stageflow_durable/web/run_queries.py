"""What a list of runs is asked for, as an address says it: ``?status=parked&pipeline=checkout&since=2h``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from stageflow_durable.errors import InvalidInput, InvalidKey
from stageflow_durable.idempotency.keys import valid_key
from stageflow_durable.model.attributes import checked
from stageflow_durable.model.status import AT_REST, ParkReason, RunStatus
from stageflow_durable.moments import FORMS, moment_of
from stageflow_durable.store.values import ATTENTION, Filter

T = TypeVar("T")

LIMIT, MOST = 50, 200
"""Runs on a page, unless it is said, and at the most."""

GROUPS: Mapping[str, tuple[RunStatus, ...]] = {
    "live": tuple(status for status in RunStatus if status not in AT_REST),
    "attention": ATTENTION,
}
"""Words for several statuses."""

_ONCE = ("pipeline", "client", "key", "since", "until", "error", "park_reason", "before", "limit")
NAMES = (*_ONCE, "status", "attribute")
"""What may be asked by."""


@dataclass(frozen=True, slots=True)
class Query:
    """``wanted``: the filter. ``key``: runs that were enqueued under it, or None."""

    wanted: Filter
    key: str | None = None

    @property
    def narrows(self) -> bool:
        """Whether it leaves any run out."""
        all_ = Filter(limit=self.wanted.limit, before=self.wanted.before)
        return self.key is not None or self.wanted != all_


def query_of(text: str, now: datetime) -> Query:
    """What an address asks for. Raises InvalidInput naming each part that is wrong."""
    try:
        pairs = parse_qsl(text, keep_blank_values=False, max_num_fields=60, errors="strict")
    except (ValueError, UnicodeDecodeError):
        raise InvalidInput("runs", ["the part behind the question mark is none that can be read"]) from None
    return query_from(pairs, now)


def query_from(pairs: Sequence[tuple[str, str]], now: datetime) -> Query:
    """The same from pairs of a name and a value."""
    wrong = [f"{name}: one of {', '.join(NAMES)}" for name, _value in pairs if name not in NAMES]
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        given.setdefault(name, []).append(value)
    wrong += [f"{name}: given twice" for name in _ONCE if len(given.get(name, ())) > 1]

    def read(name: str, how: Callable[[str], T]) -> T | None:
        if name not in given:
            return None
        try:
            return how(given[name][0])
        except (ValueError, OverflowError, InvalidKey) as error:
            wrong.append(f"{name}: {error}")
            return None

    since, until = (read(name, lambda text: _moment(text, now)) for name in ("since", "until"))
    park_reason = read("park_reason", ParkReason)
    error = read("error", lambda text: valid_key(text, "it"))
    if error is not None and since is None:
        wrong.append("error: every run with an error is looked at: say since when, since=1d")
    wanted = Filter(
        # Only parked runs have a reason: their index finds them.
        status=_statuses(given.get("status", ()), wrong) or (None if park_reason is None else (RunStatus.PARKED,)),
        pipeline=read("pipeline", lambda text: valid_key(text, "it")),
        client_id=read("client", lambda text: valid_key(text, "it")),
        since=None if since is None else since.timestamp(),
        limit=read("limit", _limit) or LIMIT,
        before=read("before", place_of),
        park_reason=park_reason,
        until=None if until is None else until.timestamp(),
        error=error,
        attributes=_attributes(given.get("attribute", ()), wrong),
    )
    key = read("key", lambda text: valid_key(text, "it"))
    if wrong:
        raise InvalidInput("runs", wrong)
    return Query(wanted, key)


def _statuses(given: Sequence[str], wrong: list[str]) -> tuple[RunStatus, ...] | None:
    found: dict[RunStatus, None] = {}
    for word in given:
        try:
            found |= dict.fromkeys(GROUPS.get(word) or (RunStatus(word),))
        except ValueError:
            wrong.append(f"status: {word[:40]!r}; one of {', '.join((*GROUPS, *RunStatus))}")
    return tuple(found) or None


def _attributes(given: Sequence[str], wrong: list[str]) -> Any:
    pairs = [one.partition("=") for one in given]
    wrong += [f"attribute: {name[:40]!r}; as name=value" for name, equals, _value in pairs if not equals]
    try:
        return checked({name: value for name, equals, value in pairs if equals}, "runs")
    except InvalidInput as error:
        wrong += error.fields
        return ()


def _moment(text: str, now: datetime) -> datetime:
    found = moment_of(text, now)
    if found is None:
        raise ValueError(f"{text[:40]!r} is neither {FORMS}")
    return found[0]


def _limit(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST:
        raise ValueError(f"from 1 to {MOST}")
    return number


# --- pages ------------------------------------------------------------------------------------------------------------


def place(created_at: float, run_id: str) -> str:
    """Where a run stands in a list, as an address says it: the page behind it begins there."""
    return f"{created_at.hex().replace('+', '')}~{run_id}"  # a plus sign is a blank in an address


def place_of(text: str) -> tuple[float, str]:
    """The same, read again. Raises ValueError."""
    at, mark, run_id = text.partition("~")
    if not mark or len(text) > 100:
        raise ValueError("it is none that a page gave")
    created_at = float.fromhex(at)
    if not math.isfinite(created_at):
        raise ValueError("it is none that a page gave")
    return created_at, valid_key(run_id, "it")
