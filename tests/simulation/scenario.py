"""What a seed decides beforehand: the pipelines, their options and the engine's settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stageflow_durable.errors import DefinitionError
from stageflow_durable.model.limits import ConcurrencyLimit
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.stage import Default, StageKind, Undo
from tests.items import Over, over
from tests.simulation.chance import Chance

LEASE = 10.0
Body = Callable[[Any], Any]


def no_key(_ctx: Any) -> str:
    """Whatever the application's own code raises."""
    raise SystemExit("no key")


def no_category(_error: BaseException) -> None:
    """As above."""
    raise KeyboardInterrupt


def _policies(category_of: Callable[[BaseException], Any] | None) -> dict[int, RetryPolicy]:
    return {
        number: RetryPolicy(number, base_delay=delay, max_delay=60.0, jitter="none", category_of=category_of)
        for number, delay in ((1, 0.5), (2, 0.5), (3, 4.0), (4, 20.0))
    }


POLICIES, FAILING_POLICIES = _policies(None), _policies(no_category)


LONG, ASLEEP_BEFORE, NAP = 3, 2, 30.0
"""Lines of more than so many stages sleep before the one of that number, for so many seconds."""


WORD = "word"
"""The wait that a pipeline may have, and its signal."""

ENDS_OF_WAITS: list[tuple[float | None, Any]] = [
    *((None, "fail"), (40.0, "fail"), (40.0, "skip"), (40.0, Default(-7)), (600.0, "fail")),
]
"""How long it waits, and what then."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Settings of the engine, and how often things go wrong.

    ``recycled``: no child grows old; ``prefetch``: messages that a busy worker takes in advance; ``wandering``: the
    database's clock moves often; ``interlude``: what comes before nothing goes wrong any more.
    ``callbacks``: how often a body waits for the outside.
    """

    in_place: int
    optimistic: bool
    max_lost: int
    workers: int
    moves: int
    chapters: int
    watched: bool
    observed: bool
    forks: float
    recycled: bool
    prefetch: int
    wandering: bool
    interlude: str
    callbacks: float
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
        recycled=chance.flip("recycled", 0.1),
        prefetch=chance.one_of("prefetch", [0, 16], [3, 1]),
        wandering=chance.flip("wandering", 0.1),
        interlude=chance.pick("interlude", ["none", "unheard of", "starved"], [28, 1, 1]),
        callbacks=chance.one_of("callbacks", [0.0, 0.4], [2, 1]),
        rates={kind: rates[chance.number(f"rate of {kind}", 0, 2)] for kind, rates in FAULTS.items()},
    )


def same_text(ctx: Any) -> str:
    """The same for each run of the same order."""
    return str(ctx.input["text"])


LIMITS = {
    "none": (),
    "few": (ConcurrencyLimit("few", 2),),
    "one": (ConcurrencyLimit("one", 1),),
    "by key": (ConcurrencyLimit("keyed", 1, key=same_text),),
    "both": (ConcurrencyLimit("few", 2), ConcurrencyLimit("one", 1)),
    "no key": (ConcurrencyLimit("unkeyed", 1, key=no_key),),
}
"""The limits that a stage may have."""

RELEASE = "release"
"""The approval that a pipeline may have."""


def to_approve(ctx: Any) -> Any:
    """What is to be approved, by an application that has been deployed anew on the way: now and then something else."""
    return {"order": ctx.input["text"], "version": ctx.services.work.attempt // 3}


def business_key(ctx: Any) -> str:
    """The same for each run of the same order."""
    return f"business {ctx.input['text']}"


def _policy(chance: Chance, about: str) -> RetryPolicy:
    number = chance.number(f"{about} attempts", 1, 4)
    return (FAILING_POLICIES if chance.flip(f"{about} policy fails", 0.03) else POLICIES)[number]


def items(chance: Chance, pipeline: Pipeline[Any, Any]) -> dict[tuple[str, str], Over]:
    """Stages of the pipeline that have items, and what these are given."""
    found: dict[tuple[str, str], Over] = {}
    for spec in pipeline.stages:
        stands = spec.sleep is not None or spec.wait is not None
        if spec.pivot or spec.on_unknown == "park" or spec.key is not None or stands or spec.limits:
            continue
        this = f"{pipeline.name}.{spec.name}"
        count = chance.one_of(f"{this}: items", [None, 0, 1, 3, 5], [24, 0.3, 0.7, 1, 1])
        if count is not None:
            found[pipeline.name, spec.name] = over(*range(count), collects=chance.flip(f"{this}: collects", 0.5))
    return found


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
    waits_before = chance.one_of(
        f"{name}: waits before", [None, *range(count + 1)], [3, *[1 / (count + 1)] * (count + 1)]
    )
    asks_before = chance.one_of(f"{name}: asks before", [None, *range(count)], [4, *[1 / count] * count])
    for number in range(count):
        this = f"{name}.{number}"
        options: dict[str, Any] = {
            "retry": _policy(chance, f"{this}:"),
            "on_unknown": chance.pick(f"{this}: on unknown", ["retry", "park", "compensate"], [5, 1, 2]),
            "timeout": chance.one_of(f"{this}: timeout", [None, 20.0, 60.0], [4, 1, 3]),
            "queue": chance.one_of(f"{this}: queue", [None, "other"], [9, 1]),
            "kind": chance.one_of(f"{this}: kind", [StageKind.WORK, StageKind.GUARD], [7, 1]),
            "pivot": number == pivot,
            "key": {"none": None, "business": business_key, "fails": no_key}[
                chance.pick(f"{this}: key", ["none", "business", "fails"], [92, 7, 1])
            ],
        }
        options["limits"] = LIMITS[chance.beside(f"{this}: limits", list(LIMITS), [8, 2, 3, 2, 3, 0.2])]
        if chance.pick(f"{this}: undo", ["undo", "none"], [4, 1]) == "undo":
            options["compensate"] = Undo(undo, _policy(chance, f"{this}: undo"))
        after = _after(chance, this, number, shape)
        if number == waits_before:
            made, after = _waiting(chance, name, made, after), (WORD,)
        if number == asks_before:
            made, after = _asking(chance, name, made, after), (RELEASE,)
        naps = shape == "line" and number == ASLEEP_BEFORE and count > LONG
        if naps and not (number == asks_before and _may_pass_over(made)):
            made, after = made.sleep("nap", NAP, after=after), ("nap",)
        made = made.stage(f"s{number}", stage, after=after, **options)
    return made if waits_before != count else _waiting(chance, name, made, (f"s{count - 1}",))


def _waiting(chance: Chance, name: str, made: Pipeline[Any, Any], after: tuple[str, ...]) -> Pipeline[Any, Any]:
    timeout, on_timeout = chance.one_of(f"{name}: wait", ENDS_OF_WAITS)
    return made.wait_for(WORD, timeout=timeout, on_timeout=on_timeout, after=after)


def _asking(chance: Chance, name: str, made: Pipeline[Any, Any], after: tuple[str, ...]) -> Pipeline[Any, Any]:
    timeout = chance.one_of(f"{name}: asks for", [None, 60.0])
    denied: Any = chance.pick(f"{name}: denied", ["reject", "park", "skip"])
    on_timeout: Any = "reject" if timeout is None else denied
    options = {"timeout": timeout, "on_timeout": on_timeout, "on_denied": denied}
    return made.approve(RELEASE, to_approve, **options, separation=False, after=after)


def _may_pass_over(made: Pipeline[Any, Any]) -> bool:
    """Whether the approval may skip what comes right after it, which has to be work then."""
    approval = made.by_name[RELEASE].approval
    assert approval is not None
    return "skip" in (approval.on_denied, approval.on_timeout)


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
