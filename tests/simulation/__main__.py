"""``python -m tests.simulation``: seeds in parallel, one seed with its trace, a failing one made small; the mutants."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.play import KINDS, Played, failing, minimised, play, play_many

MUTANT_SEEDS = 10_000


def main() -> int:
    """Returns 1 where something was broken, or a mutant was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--store", choices=tuple(KINDS), default="sqlite", help="on which store")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="print what happened in it")
    parser.add_argument("--small", action="store_true", help="print what is left of it when it is made small")
    parser.add_argument("--mutants", action="store_true", help="plant mistakes in the engine instead")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    asked = parser.parse_args()
    if asked.mutants:
        return _mutants(asked.store, asked.only, asked.seeds if "--seeds" in sys.argv else MUTANT_SEEDS)
    if asked.seed is not None:
        return _one(asked.store, asked.seed, trace=asked.trace, small=asked.small)
    return _many(asked.store, asked.first, asked.seeds, asked.jobs)


def _one(store: str, seed: int, *, trace: bool, small: bool) -> int:
    played = play(seed, store=store)
    if trace:
        _print(played)
    print(f"seed {seed}: {played.violation or 'nothing is broken'}; trace {played.hash}")
    if played.violation is not None and small:
        _small(store, played)
    return 0 if played.violation is None else 1


def _print(played: Played) -> None:
    for line in played.lines():
        print(line)


def _small(store: str, played: Played) -> None:
    answers = minimised(played.answers, store=store)
    again = play(None, answers, store=store)
    print(f"\n--- seed {played.seed} made small: {len(answers)} of {len(played.answers)} decisions ---")
    for name, answer in answers.items():
        print(f"  {name}: {answer}")
    _print(again)


def _many(store: str, first: int, count: int, jobs: int) -> int:
    began = time.monotonic()

    def progress(done: int, found: list[tuple[int, str]]) -> None:
        rate = done / (time.monotonic() - began)
        print(f"\r{done} of {count} seeds, {rate:.0f}/s, {len(found)} broken ", end="", file=sys.stderr, flush=True)

    found, busy = play_many(first, count, jobs, progress, store=store)
    seconds = time.monotonic() - began
    print(f"\n{count} seeds from {first} in {seconds:.0f} s, {count / seconds:.0f}/s in {jobs} processes", end=", ")
    print(f"{count / busy:.0f} a second of a core's time", flush=True)
    for seed, what in found:
        print(f"seed {seed}: {what}")
    if found:
        _small(store, play(found[0][0], store=store))
        print(f"\nagain: python -m tests.simulation --store {store} --seed {found[0][0]} --trace")
    return 1 if found else 0


def _mutants(store: str, only: str, most: int) -> int:
    escaped = 0
    print(f"{'mutation':<58} {'seed':>5} {'s':>6}  what was seen")
    for mutant in MUTANTS:
        if only not in mutant.name:
            continue
        began = time.monotonic()
        seed, what = caught(mutant, most, store)
        escaped += seed is None
        shown = "none" if seed is None else str(seed)
        print(f"{mutant.name:<58} {shown:>5} {time.monotonic() - began:>6.1f}  {what[:110]}", flush=True)
    return 1 if escaped else 0


def caught(mutant: Mutant, most: int, store: str) -> tuple[int | None, str]:
    """The first seed that shows the mistake, and how."""
    with mutant.planted(store):
        for seed in range(most):
            found = failing([seed], store=store)
            if found:
                return found[0]
    return None, f"not within {most} seeds"


if __name__ == "__main__":
    sys.exit(main())
