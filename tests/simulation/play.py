"""Playing seeds: one, many, in parallel; and making a failing one small."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

from tests.simulation.bench import Bench, MemoryBench
from tests.simulation.chance import Answers
from tests.simulation.ledger import Violation
from tests.simulation.lines import apart
from tests.simulation.simulation import Simulation, Trace

CHUNK = 50


KINDS: dict[str, Callable[[], Bench | MemoryBench]] = {"memory": MemoryBench, "sqlite": Bench}
"""By the name of the store."""


@cache
def bench(kind: str) -> Bench | MemoryBench:
    """This process's."""
    return KINDS[kind]()


@dataclass(frozen=True, slots=True)
class Played:
    """How one seed went."""

    seed: int | None
    violation: str | None
    trace: Trace = field(repr=False)
    answers: Answers = field(repr=False)
    hash: str

    def lines(self) -> Iterator[str]:
        """The trace as text: seconds, process, what happened there."""
        for passed, who, what, about in self.trace:
            yield f"{passed:10.3f}  {who:<6} {what:<10} {about}".rstrip()


@contextmanager
def quietly() -> Iterator[None]:
    """What the engine warns of is what we do to it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """A seed leaves little to the collector, which would look through everything a dozen times in each."""
    before = gc.get_threshold()
    gc.set_threshold(100_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def play(seed: int | None, answers: Answers | None = None, *, store: str = "sqlite") -> Played:
    """One seed, or a list of answers."""
    with quietly():
        return apart(lambda: _play(seed, answers, store))


def _play(seed: int | None, answers: Answers | None, store: str) -> Played:
    simulation = Simulation(bench(store), seed, answers)
    try:
        violation = simulation.run()
    except Violation as found:  # from before the first chapter
        violation = found
    simulation.forget()
    told = None if violation is None else str(violation)
    return Played(seed, told, simulation.trace, simulation.chance.made, simulation.hash())


def failing(seeds: Iterable[int], *, store: str = "sqlite") -> list[tuple[int, str]]:
    """Those seeds that break something, with what."""
    with quietly():
        return apart(lambda: _failing(seeds, store))


def _failing(seeds: Iterable[int], store: str) -> list[tuple[int, str]]:
    found = []
    with _collector_at_rest():
        for seed in seeds:
            simulation = Simulation(bench(store), seed)
            violation = simulation.run()
            simulation.forget()
            if violation is not None:
                found.append((seed, str(violation)))
    return found


def _chunk(chunk: tuple[int, int, str]) -> tuple[int, float, list[tuple[int, str]]]:
    first, last, store = chunk
    bench(store)  # made once, which is no seed's work
    began = time.process_time()
    found = failing(range(first, last), store=store)
    return last - first, time.process_time() - began, found


def play_many(
    first: int, count: int, jobs: int, progress: Callable[[int, list[tuple[int, str]]], None], *, store: str = "sqlite"
) -> tuple[list[tuple[int, str]], float]:
    """Many seeds in ``jobs`` processes; ``progress`` is told how many are done, and what was found so far. Returns what
    was found, and the seconds of a core that the seeds took.
    """
    chunks = [(start, min(start + CHUNK, first + count), store) for start in range(first, first + count, CHUNK)]
    found: list[tuple[int, str]] = []
    done, busy = 0, 0.0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for size, seconds, broken in pool.imap_unordered(_chunk, chunks):
            done += size
            busy += seconds
            found += broken
            progress(done, found)
    return sorted(found), busy


def minimised(answers: Answers, *, tries: int = 2000, store: str = "sqlite") -> Answers:
    """Fewer answers that still break something: whatever can be left out is (Zeller's delta debugging)."""
    kept, size = list(answers), max(1, len(answers) // 2)
    while size:
        at, smaller = 0, False
        while at < len(kept) and tries > 0:
            left = kept[:at] + kept[at + size :]
            tries -= 1
            if play(None, {name: answers[name] for name in left}, store=store).violation is None:
                at += size
            else:
                kept, smaller = left, True
        size = size if smaller and size == 1 and tries > 0 else size // 2
    return {name: answers[name] for name in kept}
