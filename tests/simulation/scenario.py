"""What a seed decides beforehand: the pipelines, their options and the engine's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import StageKind, Undo
from tests.simulation.chance import Chance

LEASE = 10.0
Body = Callable[[Any], Any]
POLICIES = {
    number: RetryPolicy(number, base_delay=delay, max_delay=60.0, jitter="none")
    for number, delay in ((1, 0.5), (2, 0.5), (3, 4.0), (4, 20.0))
}


LONG, ASLEEP_BEFORE, NAP = 3, 2, 30.0
"""Lines of more than so many stages sleep before the one of that number, for so many seconds."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings of the engine, and how often things go wrong."""

    in_place: int
    optimistic: bool
    max_lost: int
    workers: int
    moves: int
    chapters: int
    watched: bool
    observed: bool
    forks: float
    rates: dict[str, float]


FAULTS = {
    "switch": (0.25, 0.08, 0.0),
    "crash": (0.03, 0.0, 0.1),
    "pause": (0.03, 0.0, 0.1),
    "away": (0.0, 0.02, 0.08),
    "lose": (0.03, 0.0, 0.3),
    "double": (0.05, 0.0, 0.3),
    "late": (0.05, 0.0, 0.3),
    "forge": (0.03, 0.0, 0.3),
    "trouble": (0.2, 0.1, 0.5),
    "mishap": (0.5, 0.0, 1.0),
}
"""Rates of each kind of fault; a seed draws one of three for each, so that some seeds have much of one and none of
another.
"""


def setup(chance: Chance) -> Setup:
    """The settings of a seed."""
    return Setup(
        in_place=int(chance.pick("in place", ["50", "1", "2"])),
        optimistic=chance.pick("way", ["optimistic", "locked"]) == "optimistic",
        max_lost=chance.number("poison", 2, 4),
        workers=chance.number("workers", 1, 3),
        moves=chance.number("moves", 6, 15) * chance.one_of("length", [1, 2, 4], [7, 2, 1]),
        chapters=chance.number("chapters", 1, 2, [5, 1]),
        watched=chance.flip("watched", 0.02),
        observed=chance.flip("observed", 0.25),
        forks=chance.one_of("forks", [0.0, 0.25], [2, 1]),
        rates={kind: rates[chance.number(f"rate of {kind}", 0, 2)] for kind, rates in FAULTS.items()},
    )


def business_key(ctx: Any) -> str:
    """The same for each run of the same order."""
    return f"business {ctx.input['text']}"


def pipeline(chance: Chance, name: str, stage: Body, undo: Body) -> Pipeline[Any, Any]:
    """A random graph of stages with random options; a pivot only where a definition allows it."""
    count = chance.number(f"{name}: stages", 1, 6, [2, 4, 4, 3, 2, 2])
    shape = chance.pick(f"{name}: shape", ["line", "graph"])
    pivot = chance.number(f"{name}: pivot", -6, count - 1)
    made = _made(chance, name, stage, undo, count, shape, pivot)
    try:
        made.plan  # noqa: B018  # raises where the pivot has an unordered neighbour
    except DefinitionError:
        made = _made(chance, name, stage, undo, count, "line", pivot)
    return made


def _made(chance: Chance, name: str, stage: Body, undo: Body, count: int, shape: str, pivot: int) -> Pipeline[Any, Any]:
    on_failure: Any = chance.pick(f"{name}: on failure", ["compensate", "park"], [5, 1])
    on_undo_failure: Any = chance.pick(f"{name}: on compensation failure", ["continue", "halt"], [4, 1])
    made = Pipeline[Any, Any](name, on_failure=on_failure, on_compensation_failure=on_undo_failure)
    for number in range(count):
        this = f"{name}.{number}"
        options: dict[str, Any] = {
            "retry": POLICIES[chance.number(f"{this}: attempts", 1, 4)],
            "on_unknown": chance.pick(f"{this}: on unknown", ["retry", "park", "compensate"], [5, 1, 2]),
            "timeout": chance.one_of(f"{this}: timeout", [None, 20.0, 60.0], [4, 1, 3]),
            "queue": chance.one_of(f"{this}: queue", [None, "other"], [9, 1]),
            "kind": chance.one_of(f"{this}: kind", [StageKind.WORK, StageKind.GUARD], [7, 1]),
            "pivot": number == pivot,
            "key": business_key if chance.flip(f"{this}: business key", 0.07) else None,
        }
        if chance.pick(f"{this}: undo", ["undo", "none"], [4, 1]) == "undo":
            options["compensate"] = Undo(undo, POLICIES[chance.number(f"{this}: undo attempts", 1, 4)])
        after = _after(chance, this, number, shape)
        if shape == "line" and number == ASLEEP_BEFORE and count > LONG:
            made, after = made.sleep("nap", NAP, after=after), ("nap",)
        made = made.stage(f"s{number}", stage, after=after, **options)
    return made


def _after(chance: Chance, this: str, number: int, shape: str) -> tuple[str, ...]:
    if not number:
        return ()
    if shape == "line":
        return (f"s{number - 1}",)
    if chance.flip(f"{this}: root", 0.1):
        return ()
    first = chance.number(f"{this}: after", 0, number - 1)
    also = chance.number(f"{this}: and after", 0, number)
    return tuple(f"s{one}" for one in sorted({first, min(also, number - 1)} if also < number else {first}))
