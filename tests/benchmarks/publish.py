"""``python -m tests.benchmarks.publish PAGE FILE…``: results of separate runs in one page, its plots, scaling.md."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks import scaling
from tests.benchmarks.document import markdown, rewrite
from tests.benchmarks.plots import draw
from tests.benchmarks.stored import Stored, load, merged, save


def publish(page: Path, found: Stored) -> None:
    """Rows that the page had before and ``found`` has not stay as they were."""
    file = page.with_suffix(".json")
    stored = merged(load(file), found)
    save(file, stored)
    rewrite(page, markdown(stored))
    rewrite(page.with_name("scaling.md"), scaling.markdown(stored))
    draw(stored, page.parent / "plots")


def main(words: Sequence[str]) -> None:
    """The first word is the page, the others are files as ``--json`` writes them; the last one that has a row wins."""
    page, *files = map(Path, words)
    for file in files:
        publish(page, load(file))


if __name__ == "__main__":
    main(sys.argv[1:])
