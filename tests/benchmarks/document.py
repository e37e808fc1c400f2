"""The table of results inside a page of the documentation, between two marks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.report import Results, named, shown

_BETWEEN = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def rewrite(page: Path, results: Results, rounds: int) -> None:
    """Put the latest results into ``page``. Raises ValueError where the marks are missing."""
    text = page.read_text(encoding="utf-8")
    if not _BETWEEN.search(text):
        raise ValueError(f"{page} has no <!-- results --> … <!-- end of results -->")
    page.write_text(_BETWEEN.sub(lambda found: found[1] + markdown(results, rounds) + found[2], text), encoding="utf-8")


def markdown(results: Results, rounds: int) -> str:
    """Machine and figures."""
    lines = [*named(results.context).splitlines(), f"medians of {rounds} interleaved rounds, ± half the range"]
    head = ["| row | figure | measured | ± | goal | due now |", "|---|---|---|---|---|---|"]
    return "\n".join([*(f"- {line}" for line in lines), "", *head, *map(_line, results.figures), ""])


def _line(figure: Figure) -> str:
    measured = f"**{shown(figure)}**" if figure.aim else shown(figure)
    cells = (str(figure.row), figure.what, measured, f"{figure.noise:.0%}", _goal(figure, figure.aim),
             _goal(figure, figure.due))
    return f"| {' | '.join(cells)} |"


def _goal(figure: Figure, goal: Goal | None) -> str:
    if goal is None:
        return ""
    return f"{goal.sign} {goal.bound:g} {'reached' if goal.met_by(figure.value) else 'not reached'}"
