"""``python -m tests.benchmarks``: measure, print, save."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bench import Bench, opened
from tests.benchmarks.ending import end
from tests.benchmarks.figures import Samples
from tests.benchmarks.installed import NotAvailable
from tests.benchmarks.machine import Others, machine, services
from tests.benchmarks.plots import draw
from tests.benchmarks.probes import ONCE, PROBES
from tests.benchmarks.publish import publish
from tests.benchmarks.report import Results, named, table
from tests.benchmarks.rows import ROWS, judge, probes_of
from tests.benchmarks.stored import as_json, load, merged, save
from tests.benchmarks.volume import Volume

QUICK = 0.25
WIDE = 140
NEED_SERVICES = frozenset(ROWS) - {9, 13}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 when it came to its end, whatever it found."""
    options = _parser().parse_args(words)
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, end)
    results = measure(options.rows, options.rounds, _volume(options), console)
    printed = Console(width=None if sys.stdout.isatty() else WIDE)
    printed.print(named(results.context), table(results.figures, options.rounds), sep="\n", highlight=False)
    for name, reason in results.missing.items():
        printed.print(f"not available: {name}: {reason}", highlight=False, markup=False)
    _keep(results, options)
    return 0


def _keep(results: Results, options: argparse.Namespace) -> None:
    """Other rows that a file has stay as they were."""
    if options.json is not None:
        save(options.json, merged(load(options.json), as_json(results)))
    if options.document is not None:
        publish(options.document, as_json(results))
    if options.plots is not None:
        draw(as_json(results) if options.json is None else load(options.json), options.plots)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    titles = "; ".join(f"{number} {row.title}" for number, row in ROWS.items())
    parser.add_argument("--rows", type=_rows, default=tuple(ROWS), metavar="1,3", help=f"all by default: {titles}")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there as well, over the same rows")
    parser.add_argument("--plots", type=Path, metavar="DIRECTORY", help="draw the figures there")
    parser.add_argument("--document", type=Path, metavar="FILE", help="rewrite them in this page, plots, scaling.md")
    parser.add_argument("--quick", action="store_true", help="a quarter of the volume: does it run, not how fast")
    usual = Volume()
    parser.add_argument("--kills", type=int, default=usual.kills, help=f"row 10: of each kind ({usual.kills})")
    parser.add_argument("--finished", type=int, default=usual.finished, help=f"row 11: runs ({usual.finished:,})")
    parser.add_argument(
        "--stages", type=int, default=usual.stages, help=f"row 12: at the last reading ({usual.stages:,})"
    )
    return parser


def _volume(options: argparse.Namespace) -> Volume:
    return Volume(QUICK if options.quick else 1.0, options.kills, options.finished, options.stages)


def _rows(text: str) -> tuple[int, ...]:
    chosen = tuple(int(word) for word in text.split(","))
    unknown = [number for number in chosen if number not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"there are no rows {unknown}; there are {', '.join(map(str, ROWS))}")
    return chosen


def measure(rows: Sequence[int], rounds: int, volume: Volume, console: Console) -> Results:
    """Every probe of these rows, ``rounds`` times over, in turn."""
    with opened() as bench:
        others = Others()
        samples, missing = _samples(bench, probes_of(rows), rounds, volume, console)
        context = {
            "machine": machine(),
            "services": services(bench) if NEED_SERVICES & set(rows) else None,
            "others": others.share(),
            "seconds": others.seconds,
            "volume": volume.share,
            "kills": volume.kills,
            "rounds": rounds,
            "measured": time.strftime("%Y-%m-%d", time.gmtime()),
        }
    return Results(context, samples, judge(rows, samples), missing)


def _samples(
    bench: Bench, probes: Sequence[str], rounds: int, volume: Volume, console: Console
) -> tuple[Samples, dict[str, str]]:
    samples: dict[str, list[float]] = {}
    missing: dict[str, str] = {}
    for number in range(1, rounds + 1):
        # Forth and back: no side always follows the same other one.
        for name in probes if number % 2 else reversed(probes):
            if name in missing or (number > 1 and name in ONCE):
                continue
            try:
                found = PROBES[name](name, bench, volume)
            except NotAvailable as error:
                missing[name] = str(error)
                continue
            for key, value in found.items():
                samples.setdefault(key, []).append(value)
            console.log(f"round {number}/{rounds}  {name}: {found[name]:.4g}")
    return samples, missing


if __name__ == "__main__":
    sys.exit(main())
