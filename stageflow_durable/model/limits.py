"""Limits that all workers share: what an application declares, and what the plan of a pipeline says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stageflow_durable.duration import shown
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


class PlannedLimit(NamedTuple):
    """A limit as the stored plan says it. ``keyed``: its slots are counted by key."""

    name: str
    limit: int
    keyed: bool = False


class PoolId(NamedTuple):
    """Whose slots are counted together: the limit, and the key (empty: it has none)."""

    name: str
    key: str = ""

    @property
    def text(self) -> str:
        """For people: ``bank``, or ``bank of acme``."""
        return f"{self.name} of {self.key}" if self.key else self.name


class Wanted(NamedTuple):
    """A slot that a stage needs. ``limit``: how many there are, by the definition that asks."""

    pool: PoolId
    limit: int


def planned(limits: Iterable[Any]) -> tuple[PlannedLimit, ...]:
    """Limits as the plan says them, in the order in which they are asked."""
    return tuple(sorted(PlannedLimit(one.name, one.limit, one.key is not None) for one in limits))


def mistakes_of(limits: Any) -> Iterator[str]:
    """What is wrong with the limits of a stage."""
    if not isinstance(limits, tuple | list):
        yield f"limits={shown(limits)}: a list of ConcurrencyLimit"
        return
    for one in limits:
        if not isinstance(one, ConcurrencyLimit):
            yield f"limits: {shown(one)} is not a ConcurrencyLimit"
            continue
        if not _is_name(one.name):
            yield f"limits: name {shown(one.name)} has to be text of 1 to {LONGEST_NAME} characters"
        if type(one.limit) is not int or not 1 <= one.limit <= MOST_SLOTS:
            yield f"limits: {one.name}: limit {shown(one.limit)} has to be a whole number from 1 to {MOST_SLOTS:,}"
        if one.key is not None and (wrong := uncallable(one.key)):
            yield f"limits: {one.name}: key: {wrong}"
    names = [str(one.name) for one in limits if isinstance(one, ConcurrencyLimit)]
    yield from (f"limits: {name!r} is given twice" for name in sorted({n for n in names if names.count(n) > 1}))


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
    return f"{one.limit}{' by key' if one.keyed else ''}"
