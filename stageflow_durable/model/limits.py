"""Limits that all workers share: what an application declares, and what the plan of a pipeline says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple, TypeAlias

from stageflow_durable.duration import is_duration, shown
from stageflow_durable.model.callables import uncallable

MOST_SLOTS = 1_000_000
LONGEST_NAME = 100
LONGEST_KEY = 255
"""Characters of what a key function gives."""


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """At most ``limit`` bodies of the stages that have the limit ``name`` run at the same time, over all workers.

    ``key``: a function of the stage's context that gives a text; each text has ``limit`` slots of its own. It is called
    before the stage begins and has to give the same whenever it is asked; its error parks the run as a bug. Stages of
    several pipelines share what has the same name.

    A stage that finds no slot waits as a row, holds nothing and consumes no attempt. Raises nothing; what is wrong with
    it is told with the other mistakes of its pipeline.
    """

    name: str
    limit: int
    key: Callable[[Any], str] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most ``rate`` bodies of the stages that have the limit ``name`` begin in ``per`` seconds (or a timedelta),
    over all workers. ``burst``: how many may begin at once after a pause; None: ``rate``, rounded up.

    ``key`` and the rest as of :class:`ConcurrencyLimit`. Who comes too early waits as a row, until its turn has come.
    """

    name: str
    rate: float
    per: float | timedelta = 1.0
    burst: int | None = None
    key: Callable[[Any], str] | None = field(default=None, hash=False)

    @property
    def limit(self) -> int:
        """How many may begin at once."""
        return math.ceil(self.rate) if self.burst is None else self.burst

    @property
    def per_second(self) -> float:
        """How many may begin in a second."""
        return self.rate / (self.per.total_seconds() if isinstance(self.per, timedelta) else self.per)


Limit: TypeAlias = ConcurrencyLimit | RateLimit


class PlannedLimit(NamedTuple):
    """A limit as the stored plan says it. ``keyed``: it is counted by key. ``rate``: of a rate limit, how many begin in
    a second; ``limit`` is its burst then.
    """

    name: str
    limit: int
    keyed: bool = False
    rate: float | None = None


class PoolId(NamedTuple):
    """Whose slots are counted together: the limit, and the key (empty: it has none)."""

    name: str
    key: str = ""

    @property
    def text(self) -> str:
        """For people: ``bank``, or ``bank of acme``."""
        return f"{self.name} of {self.key}" if self.key else self.name


class Wanted(NamedTuple):
    """A slot, or a token, that a stage needs. ``limit`` and ``rate``: as the definition that asks says."""

    pool: PoolId
    limit: int
    rate: float | None = None


def planned(limits: Iterable[Any]) -> tuple[PlannedLimit, ...]:
    """Limits as the plan says them, in the order in which they are asked."""
    found = [
        PlannedLimit(one.name, one.limit, one.key is not None, one.per_second if isinstance(one, RateLimit) else None)
        for one in limits
    ]
    return tuple(sorted(found, key=lambda one: one.name))


def mistakes_of(limits: Any) -> Iterator[str]:
    """What is wrong with the limits of a stage."""
    if not isinstance(limits, tuple | list):
        yield f"limits={shown(limits)}: a list of ConcurrencyLimit and RateLimit"
        return
    for one in limits:
        if not isinstance(one, Limit):
            yield f"limits: {shown(one)} is neither a ConcurrencyLimit nor a RateLimit"
            continue
        if not _is_name(one.name):
            yield f"limits: name {shown(one.name)} has to be text of 1 to {LONGEST_NAME} characters"
        if isinstance(one, RateLimit):
            yield from _of_rate(one)
        elif type(one.limit) is not int or not 1 <= one.limit <= MOST_SLOTS:
            yield f"limits: {one.name}: limit {shown(one.limit)} has to be a whole number from 1 to {MOST_SLOTS:,}"
        if one.key is not None and (wrong := uncallable(one.key)):
            yield f"limits: {one.name}: key: {wrong}"
    names = [str(one.name) for one in limits if isinstance(one, Limit)]
    yield from (f"limits: {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1}))


def _of_rate(one: Any) -> Iterator[str]:
    if not is_duration(one.per, above=True):
        yield f"limits: {one.name}: per {shown(one.per)} has to be seconds or a timedelta, above 0"
    is_number = isinstance(one.rate, int | float) and not isinstance(one.rate, bool)
    if not is_number or not 0 < one.rate <= MOST_SLOTS:
        yield f"limits: {one.name}: rate {shown(one.rate)} has to be a number above 0, at most {MOST_SLOTS:,}"
    if one.burst is not None and (type(one.burst) is not int or not 1 <= one.burst <= MOST_SLOTS):
        yield f"limits: {one.name}: burst {shown(one.burst)} has to be a whole number from 1 to {MOST_SLOTS:,}"


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and bool(given.strip()) and len(given) <= LONGEST_NAME and given.isprintable()


def disagreements(limits: Iterable[PlannedLimit]) -> Iterator[str]:
    """Limits of one name have to be one limit."""
    seen: dict[str, PlannedLimit] = {}
    for one in limits:
        there = seen.setdefault(one.name, one)
        if there != one:
            yield f"limit {one.name!r} is {_said(there)} at one stage and {_said(one)} at another; declare it once"


def _said(one: PlannedLimit) -> str:
    rate = f", {one.rate:g} a second" if one.rate is not None else ""
    return f"{one.limit}{rate}{' by key' if one.keyed else ''}"
