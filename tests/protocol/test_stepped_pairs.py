"""Every two transactions that may meet on one run, and some threes, interleaved at every statement in two or three
sessions of PostgreSQL.

However they meet, it has to come out as if one had come after the other: the same answers, the same rows but for
their times. That rules out a deadlock (none has one when alone), half of a transaction, and a run that two of them
decided about. Every invariant has to hold as well, and of two that contradict each other exactly one wins.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from stageflow_durable.model.work import Refused, Work
from tests.protocol.moves import is_optimistic
from tests.protocol.scenes import Scene, brought_about, told, won
from tests.protocol.situations import SITUATIONS, Situation
from tests.protocol.stepping import Played, Stage

pytestmark = pytest.mark.postgres

MOST = 60
"""More statements than any transaction sends."""

EVERY = bool(os.environ.get("STAGEFLOW_STEP_EVERY"))
"""Whether to hold each of two that meet, under the lock too, and before statements where it makes no difference."""

Outcome = tuple[str, ...]
MakeScene = Callable[[str], Scene]


def _ways(*names: str) -> tuple[str, ...]:
    return ("locked", "optimistic") if any(map(is_optimistic, names)) else ("locked",)


def _cases(names: Callable[[Situation], Iterable[tuple[str, ...]]]) -> list[Any]:
    return [
        pytest.param(
            name, acts, way, marks=pytest.mark.xdist_group(f"stepped {name}"), id=f"{name}: {' + '.join(acts)}, {way}"
        )
        for name, situation in SITUATIONS.items()
        for acts in names(situation)
        for way in _ways(*acts)
        if EVERY or _worth(situation, acts, way)
    ]


def _worth(situation: Situation, acts: tuple[str, ...], way: str) -> bool:
    """Without EVERY each two and each three are tried, but not each way round: where the run's lock makes one out of
    all it does not matter who is held.
    """
    places = [situation.acts.index(act) for act in acts]
    if len(acts) == 3:
        return places == sorted(places) or (way == "optimistic" and places[0] == min(places))
    return way == "optimistic" or places == sorted(places)


ALONE = _cases(lambda situation: [(act,) for act in situation.acts])
PAIRS = _cases(lambda situation: itertools.product(situation.acts, repeat=2))
TRIPLES = _cases(lambda situation: itertools.permutations(situation.core, 3))


@pytest.fixture(scope="module")
def scene_of(migrated_url: str) -> Iterator[MakeScene]:
    """Situations, each brought about once."""
    made: dict[str, Scene] = {}

    def get(name: str) -> Scene:
        if name not in made:
            made[name] = brought_about(SITUATIONS[name], migrated_url)
        return made[name]

    yield get
    for scene in made.values():
        scene.close()


@pytest.fixture(scope="module")
def stages(migrated_url: str) -> Iterator[dict[str, Stage]]:
    """Three sessions that always take the lock, and three that do so only where they have to."""
    made = {way: Stage(migrated_url, 3, optimistic=way == "optimistic") for way in ("locked", "optimistic")}
    yield made
    for stage in made.values():
        stage.close()


def in_order(scene: Scene, stage: Stage, names: Sequence[str], order: Sequence[int], way: str) -> Outcome:
    """What comes of them one after another: their answers, and the rows; every invariant holds after each."""
    played = tuple(names[number] for number in order)
    if (way, *played) not in scene.serial:
        scene.set_up()
        answers = [told(stage.alone(scene.act(name))) for name in played]
        scene.serial[way, *played] = (*answers, scene.check())
    *answers, rows = scene.serial[way, *played]
    return (*(answers[order.index(number)] for number in range(len(names))), rows)


def play(scene: Scene, stage: Stage, names: Sequence[str], way: str, *at: int) -> Played:
    """One interleaving, judged."""
    scene.set_up()
    played = stage.interleave([scene.act(name) for name in names], *at)
    came = (*map(told, played.answers), scene.check())
    orders: list[Outcome] = []
    for order in itertools.permutations(range(len(names))):
        orders.append(in_order(scene, stage, names, order, way))
        if came == orders[-1]:
            break
    else:
        raise AssertionError(_difference(names, at, came, orders))
    for one, two in itertools.combinations(range(len(names)), 2):
        if scene.situation.contradict(names[one], names[two]):
            assert not (won(played.answers[one]) and won(played.answers[two])), f"both won: {came[one]}, {came[two]}"
    if scene.situation.contradict(*names):
        assert any(map(won, played.answers)), f"none won: {came[:-1]}"
    return played


def _difference(names: Sequence[str], at: Sequence[int], came: Outcome, expected: list[Outcome]) -> str:
    lines = [f"{' + '.join(names)}, held before {at}: not what comes of any order"]
    for outcome in expected:
        lines += ["--- against this order:"]
        lines += [
            f"  {is_!r} instead of {was!r}" for is_, was in zip(came[:-1], outcome[:-1], strict=True) if is_ != was
        ]
        here, there = set(came[-1].splitlines()), set(outcome[-1].splitlines())
        lines += [f"  is:     {line}" for line in sorted(here - there)]
        lines += [f"  not is: {line}" for line in sorted(there - here)]
    return "\n".join(lines)


def every_interleaving(scene: Scene, stage: Stage, names: Sequence[str], way: str, *others: int) -> None:
    """The first held before its second statement, its third and so on (before its first it would be one after the
    other); up to where it makes no difference any more, for the others wait and have done nothing.
    """
    for at in range(1, MOST):
        played = play(scene, stage, names, way, at, *others)
        if not played.stopped or (played.same_later and not EVERY):
            return
    raise AssertionError("the first session never ended")


@pytest.mark.parametrize(("name", "alone", "way"), ALONE)
def test_one_alone_moves_the_run_as_the_tables_say(
    scene_of: MakeScene, stages: dict[str, Stage], name: str, alone: tuple[str], way: str
) -> None:
    scene = scene_of(name)
    scene.set_up()
    watch = scene.watch()
    stages[way].alone(scene.act(*alone))
    watch.check()


@pytest.mark.parametrize(("name", "pair", "way"), PAIRS)
def test_two_that_meet_come_out_as_one_after_the_other(
    scene_of: MakeScene, stages: dict[str, Stage], name: str, pair: tuple[str, str], way: str
) -> None:
    every_interleaving(scene_of(name), stages[way], pair, way)


@pytest.mark.parametrize(("name", "three", "way"), TRIPLES)
def test_three_that_meet_come_out_as_one_after_the_other(
    scene_of: MakeScene, stages: dict[str, Stage], name: str, three: tuple[str, str, str], way: str
) -> None:
    every_interleaving(scene_of(name), stages[way], three, way, 1)


@pytest.mark.parametrize("end", ["confirm", "confirm_dead", "mark_killed", "retire"])
@pytest.mark.parametrize("way", ["locked", "optimistic"])
def test_however_an_end_is_confirmed_while_its_work_is_taken_the_undo_begins_and_not_before(
    scene_of: MakeScene, stages: dict[str, Stage], end: str, way: str
) -> None:
    scene, stage = scene_of("unconfirmed"), stages[way]
    for names in (("take a", f"end {end} gone"), (f"end {end} gone", "take a")):
        for at in range(MOST):
            played = play(scene, stage, names, way, at)
            assert isinstance(stage.alone(scene.act("begin undo:a me")), Work), f"{names}, held before {at}"
            if not played.stopped:
                break
    scene.set_up()
    stage.alone(scene.act("take a"))
    assert isinstance(stage.alone(scene.act("begin undo:a me")), Refused)
