"""``python -m tests.simulation``: seeds in parallel, one seed with its trace, a failing one made small; the mutants."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.play import Played, failing, minimised, play, play_many

MUTANT_SEEDS = 10_000


def main() -> int:
    """Returns 1 where something was broken, or a mutant was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="print what happened in it")
    parser.add_argument("--small", action="store_true", help="print what is left of it when it is made small")
    parser.add_argument("--mutants", action="store_true", help="plant mistakes in the engine instead")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    asked = parser.parse_args()
    if asked.mutants:
        return _mutants(asked.only, asked.seeds if "--seeds" in sys.argv else MUTANT_SEEDS)
    if asked.seed is not None:
        return _one(asked.seed, trace=asked.trace, small=asked.small)
    return _many(asked.first, asked.seeds, asked.jobs)


def _one(seed: int, *, trace: bool, small: bool) -> int:
    played = play(seed)
    if trace:
        _print(played)
    print(f"seed {seed}: {played.violation or 'nothing is broken'}; trace {played.hash}")
    if played.violation is not None and small:
        _small(played)
    return 0 if played.violation is None else 1


def _print(played: Played) -> None:
    for line in played.lines():
        print(line)


def _small(played: Played) -> None:
    answers = minimised(played.answers)
    again = play(None, answers)
    print(f"\n--- seed {played.seed} made small: {len(answers)} of {len(played.answers)} decisions ---")
    for name, answer in answers.items():
        print(f"  {name}: {answer}")
    _print(again)


def _many(first: int, count: int, jobs: int) -> int:
    began = time.monotonic()

    def progress(done: int, found: list[tuple[int, str]]) -> None:
        rate = done / (time.monotonic() - began)
        print(f"\r{done} of {count} seeds, {rate:.0f}/s, {len(found)} broken ", end="", file=sys.stderr, flush=True)

    found, busy = play_many(first, count, jobs, progress)
    seconds = time.monotonic() - began
    print(f"\n{count} seeds from {first} in {seconds:.0f} s, {count / seconds:.0f}/s in {jobs} processes", end=", ")
    print(f"{count / busy:.0f} a second of a core's time", flush=True)
    for seed, what in found:
        print(f"seed {seed}: {what}")
    if found:
        _small(play(found[0][0]))
        print(f"\nagain: python -m tests.simulation --seed {found[0][0]} --trace")
    return 1 if found else 0


def _mutants(only: str, most: int) -> int:
    escaped = 0
    print(f"{'mutation':<58} {'seed':>5} {'s':>6}  what was seen")
    for mutant in MUTANTS:
        if only not in mutant.name:
            continue
        began = time.monotonic()
        seed, what = caught(mutant, most)
        escaped += seed is None
        shown = "none" if seed is None else str(seed)
        print(f"{mutant.name:<58} {shown:>5} {time.monotonic() - began:>6.1f}  {what[:110]}", flush=True)
    return 1 if escaped else 0


def caught(mutant: Mutant, most: int) -> tuple[int | None, str]:
    """The first seed that shows the mistake, and how."""
    with mutant.planted():
        for seed in range(most):
            found = failing([seed])
            if found:
                return found[0]
    return None, f"not within {most} seeds"


if __name__ == "__main__":
    sys.exit(main())
