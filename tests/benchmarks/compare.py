"""``python -m tests.benchmarks.compare REF``: this working tree against another commit's library, in turn."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.ending import end
from tests.benchmarks.figures import Figure
from tests.benchmarks.report import shown
from tests.benchmarks.stored import Stored, figures_of, load
from tests.benchmarks.worker import ROOT

WIDE = 120
OURS = ("tests/benchmarks", "tests/services")
"""What both sides take from here: one way of measuring, two libraries."""

OF_THE_LIBRARY = "stageflow_durable/embedded/ports.py"
"""What that stands on, of the library: commits before it had ports of their own. It measures nothing."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure both round by round, forth and back, and print what changed."""
    options, others = _parser().parse_known_args(words)
    signal.signal(signal.SIGTERM, end)
    with other(options.ref) as tree, tempfile.TemporaryDirectory(prefix="sf-compare-") as directory:
        found: dict[Path, list[Stored]] = {tree: [], ROOT: []}
        for number in range(options.rounds):
            for place in (tree, ROOT) if number % 2 == 0 else (ROOT, tree):
                found[place].append(_round(place, Path(directory) / f"{number}.json", others))
        printed = Console(width=None if sys.stdout.isatty() else WIDE)
        printed.print(changes(together(found[tree]), together(found[ROOT])))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare", description=__doc__)
    parser.add_argument("ref", help="a commit, a branch, a tag")
    parser.add_argument("--rounds", type=int, default=3)
    return parser


@contextmanager
def other(ref: str) -> Iterator[Path]:
    """A worktree of that commit with the benchmark of this one; gone with the block."""
    with tempfile.TemporaryDirectory(prefix="sf-ref-") as directory:
        tree = Path(directory) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, ref], cwd=ROOT, check=True)
        try:
            for name in OURS:
                shutil.rmtree(tree / name, ignore_errors=True)
                shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copyfile(ROOT / OF_THE_LIBRARY, tree / OF_THE_LIBRARY)
            if (ROOT / ".bench").exists():
                (tree / ".bench").symlink_to(ROOT / ".bench")
            yield tree
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=False)


def _round(tree: Path, file: Path, others: Sequence[str]) -> Stored:
    file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.benchmarks", "--rounds", "1", "--json", str(file), *others]
    # The library is found in the tree before the one that is installed, by commands as well.
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    return load(file)


def together(rounds: Sequence[Stored]) -> Stored:
    """The rounds of one side as if they had been one run."""
    made = rounds[0]
    for row, entry in made["rows"].items():
        for number, figure in enumerate(entry["figures"]):
            figure["rounds"] = [value for one in rounds for value in one["rows"][row]["figures"][number]["rounds"]]
    return made


def changes(before: Stored, after: Stored) -> Table:
    """Figure by figure: what it was, what it is, and by how much; a change smaller than the noise says nothing."""
    made = Table(title="what the change did", title_justify="left")
    for heading in ("row", "figure", "before", "after", "change", "noise"):
        made.add_column(heading, justify="left" if heading == "figure" else "right")
    was = {(figure.row, figure.what): figure for figure in figures_of(before)}
    for figure in figures_of(after):
        old = was.get((figure.row, figure.what))
        if old is not None:
            made.add_row(str(figure.row), figure.what, shown(old), shown(figure), *_change(old, figure))
    return made


def _change(old: Figure, new: Figure) -> tuple[str, str]:
    noise = max(old.noise, new.noise)
    if not old.value:
        return "", f"{noise:.0%}"
    change = new.value / old.value - 1
    text = f"{change:+.0%}"
    return (f"[bold]{text}[/bold]" if abs(change) > noise else text), f"{noise:.0%}"


if __name__ == "__main__":
    sys.exit(main())
