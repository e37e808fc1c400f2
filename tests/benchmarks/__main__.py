"""``python -m tests.benchmarks``: measure, print, save."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from tests.benchmarks.bench import Bench, opened
from tests.benchmarks.document import rewrite
from tests.benchmarks.figures import Samples
from tests.benchmarks.machine import Others, machine, services
from tests.benchmarks.report import Results, as_json, named, table
from tests.benchmarks.rows import PROBES, ROWS, judge, probes_of

QUICK = 0.25
WIDE = 140
NEED_SERVICES = frozenset(ROWS) - {13}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when it came to its end, whatever it found."""
    options = _parser().parse_args(words)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _end)
    results = measure(options.rows, options.rounds, QUICK if options.quick else 1.0, console)
    printed = Console(width=None if sys.stdout.isatty() else WIDE)
    printed.print(named(results.context), table(results.figures, options.rounds), sep="\n", highlight=False)
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(results), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.document is not None:
        rewrite(options.document, results, options.rounds)
    return 0


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)  # through every clean-up


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    titles = "; ".join(f"{number} {row.title}" for number, row in ROWS.items())
    parser.add_argument("--rows", type=_rows, default=tuple(ROWS), metavar="1,3", help=f"all by default: {titles}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well")
    parser.add_argument("--document", type=Path, metavar="FILE", help="rewrite the table of results in this page")
    parser.add_argument("--quick", action="store_true", help="a quarter of the volume: does it run, not how fast")
    return parser


def _rows(text: str) -> tuple[int, ...]:
    chosen = tuple(int(word) for word in text.split(","))
    unknown = [number for number in chosen if number not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there are no rows {unknown}; there are {', '.join(map(str, ROWS))}")
    return chosen


def measure(rows: Sequence[int], rounds: int, share: float, console: Console) -> Results:
    """Every probe of these rows, ``rounds`` times over, in turn."""
    with opened() as bench:
        others = Others()
        samples = _samples(bench, probes_of(rows), rounds, share, console)
        context = {"machine": machine(), "services": services(bench) if NEED_SERVICES & set(rows) else None,
                   "others": others.share(), "seconds": others.seconds, "volume": share}
    return Results(context, samples, judge(rows, samples))


def _samples(bench: Bench, probes: Sequence[str], rounds: int, share: float, console: Console) -> Samples:
    samples: dict[str, list[float]] = {}
    for number in range(1, rounds + 1):
        # Forth and back: no side always follows the same other one.
        for name in probes if number % 2 else reversed(probes):
            found = PROBES[name](name, bench, share)
            for key, value in found.items():
                samples.setdefault(key, []).append(value)
            console.log(f"round {number}/{rounds}  {name}: {found[name]:.4g}")
    return samples


if __name__ == "__main__":
    sys.exit(main())
