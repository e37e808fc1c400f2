"""Limits as people see them, and what they say of them: ``engine.limits``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from stageflow_durable.clock import as_optional_moment
from stageflow_durable.duration import LONGEST, is_duration, shown
from stageflow_durable.engine.twins import in_thread
from stageflow_durable.errors import InvalidInput
from stageflow_durable.model.limits import MOST_SLOTS
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import LimitState, LimitWord


@dataclass(frozen=True, slots=True)
class LimitView:
    """How a limit stands, for one key (empty: it has none, or nobody has used it yet).

    ``limit``: how many slots there are; of a rate limit its burst, and ``rate`` says how many begin in a second, else
    None. ``declared``: the number of the newest definition, where a person has set another. ``held``, ``waiting``: how
    many bodies hold a slot, and how many stages wait. ``paused_until``: an aware datetime, or None. ``said``: who
    paused or set it, and why.
    """

    name: str
    key: str
    limit: int
    declared: int
    rate: float | None
    held: int
    waiting: int
    paused_until: datetime | None
    said: str | None


class Limits:
    """What ``engine.limits`` gives. Every method has an ``a…`` twin for ``async`` callers."""

    def __init__(self, store: Store, publish: Callable[[tuple[Nudge, ...]], object]) -> None:
        self._store = store
        self._publish = publish

    def list(self) -> list[LimitView]:
        """Every limit, for each key that is in use, or paused."""
        return [_view(state) for state in self._store.limits()]

    def pause(
        self, name: str, key: str | None = None, *, until: datetime | timedelta | float, reason: str, actor: str
    ) -> None:
        """Let nobody begin what needs the limit, before ``until``: an aware datetime, or for how long (a timedelta or
        seconds, at most ten years). What runs goes on. ``key``: only for this key; None: for all.

        Raises InvalidInput; NotAllowed where nothing has that name.
        """
        self._say(LimitWord(name, key, _said(reason, actor), paused_until=self._moment(until)))

    def resume(self, name: str, key: str | None = None, *, reason: str, actor: str) -> None:
        """End a pause: of a key, or that of the whole limit. Raises InvalidInput; NotAllowed likewise."""
        self._say(LimitWord(name, key, _said(reason, actor), paused_until=0.0))

    def set(self, name: str, limit: int | None, *, reason: str, actor: str) -> None:
        """Set how many slots each key has, or the burst of a rate limit, whatever definitions say; None: what they say
        counts again. Raises InvalidInput; NotAllowed likewise.
        """
        if limit is not None and (type(limit) is not int or not 1 <= limit <= MOST_SLOTS):
            raise InvalidInput("limits", [f"limit: {shown(limit)} is no whole number from 1 to {MOST_SLOTS:,}"])
        self._say(LimitWord(name, None, _said(reason, actor), amount=limit or 0))

    def _say(self, word: LimitWord) -> None:
        for what, text in (("name", word.name), ("key", word.key)):
            if text is not None and not _is_text(text):
                raise InvalidInput("limits", [f"{what}: {shown(text)} is no text"])
        self._publish(self._store.say_of_limit(word))

    def _moment(self, until: datetime | timedelta | float) -> float:
        now = self._store.clock()
        if isinstance(until, datetime):
            if until.tzinfo is None:
                raise InvalidInput("limits", [f"until: {until} has no time zone"])
            moment = until.timestamp()
        elif is_duration(until, above=True):
            moment = now + (until.total_seconds() if isinstance(until, timedelta) else until)
        else:
            raise InvalidInput("limits", [f"until: {shown(until)} is neither a datetime nor a time above 0"])
        if not math.isfinite(moment) or not now < moment <= now + LONGEST:
            raise InvalidInput("limits", [f"until: {shown(until)} has to lie ahead, at most ten years"])
        return moment

    alist = in_thread(list)  # noqa: A003  # the method, whose name is the contract's
    apause = in_thread(pause)
    aresume = in_thread(resume)
    aset = in_thread(set)  # noqa: A003  # the method of this class


def _said(reason: str, actor: str) -> str:
    for what, text in (("reason", reason), ("actor", actor)):
        if not _is_text(text):
            raise InvalidInput("limits", [f"{what}: {shown(text)}: say it, so that others know"])
    return f"{actor.strip()}: {reason.strip()}"[:1000]


def _is_text(given: Any) -> bool:
    return isinstance(given, str) and bool(given.strip())


def _view(state: LimitState) -> LimitView:
    return LimitView(
        state.pool.name,
        state.pool.key,
        state.limit,
        state.declared,
        state.rate,
        state.held,
        state.waiting,
        as_optional_moment(state.paused_until),
        state.said,
    )
