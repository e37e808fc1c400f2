"""The engine under chance: nothing is broken in a fixed set of seeds, and the same seed is the same story."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from tests.simulation.bodies import Bodies
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.play import failing, minimised, play

SEEDS = 1000
"""As many as a core plays in half a minute; ``make simulate`` plays the others."""
CHUNKS = 10
QUICK = 400
"""Seeds within which the quick mutants show."""


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_no_seed_breaks_a_promise(chunk: int) -> None:
    size = SEEDS // CHUNKS
    assert failing(range(chunk * size, (chunk + 1) * size)) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_seed_is_the_same_story_each_time(seed: int) -> None:
    first, again = play(seed), play(seed)
    assert first.hash == again.hash
    assert play(seed + 1).hash != first.hash


def test_what_a_seed_decided_written_down_is_the_same_story_without_the_seed() -> None:
    played = play(3)
    assert play(None, played.answers).trace == played.trace


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.quick], ids=lambda mutant: mutant.name)
def test_a_planted_mistake_is_found(mutant: Mutant) -> None:
    """In memory, which plays three times as many; ``make mutants`` looks on SQLite."""
    with mutant.planted("memory"):
        assert any(failing([seed], store="memory") for seed in range(QUICK))


def test_when_the_databases_clock_jumps_while_a_stage_acts_then_its_undo_may_come_too_early() -> None:
    run = "01KDVDNA000000000000000003"
    jumps_meanwhile = {
        "workers#0": "2",
        "p0.0: on unknown#0": "compensate",
        "p0.0: timeout#0": "60.0",
        f"{run} s0 before its effect#0": "yes",
        f"{run} s0 before its effect: what#0": "pause",
        f"{run} s0 before its effect: pause#0": "45.0",
        "move#2": "mishap",
        "mishap#0": "clock",
        "jump#0": "120.0",
        "move#3": "sweep",
        "time#0": "10.1",
        "time#1": "10.1",
    }
    played = play(None, jumps_meanwhile)
    assert any(line.endswith("s0: refused") for line in played.lines()), "it acted after its undo"
    assert played.violation is None


def test_a_mistake_in_the_simulations_own_bodies_does_not_pass_for_a_stage_that_failed() -> None:
    with patch.object(Bodies, "_began", None):
        assert "TypeError" in failing(range(QUICK))[0][1]


def test_a_failing_seed_can_be_made_small() -> None:
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "undo in order")
    with mutant.planted():
        seed = next(seed for seed in range(QUICK) if failing([seed]))
        played = play(seed)
        small = minimised(played.answers)
        assert play(None, small).violation is not None
    assert len(small) < len(played.answers) / 2
    assert play(None, small).violation is None, "without the mistake the same story ends well"
