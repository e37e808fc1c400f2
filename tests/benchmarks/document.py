"""The table of results inside a page of the documentation, between two marks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.report import machine_line, quiet_line, services_line, shown
from tests.benchmarks.stored import Stored, by_row, figures_of

_BETWEEN = re.compile(r"(<!-- results -->\n).*?(<!-- end of results -->)", re.DOTALL)


def rewrite(page: Path, text: str) -> None:
    """Put a text into ``page``. Raises ValueError where the marks are missing."""
    before = page.read_text(encoding="utf-8")
    if not _BETWEEN.search(before):
        raise ValueError(f"{page} has no <!-- results --> … <!-- end of results -->")
    page.write_text(_BETWEEN.sub(lambda found: found[1] + text + found[2], before), encoding="utf-8")


def markdown(stored: Stored) -> str:
    """Machines, figures, and when each row was measured."""
    head = ["| row | figure | measured | ± | goal | due now |", "|---|---|---|---|---|---|"]
    return "\n".join(
        [*_machines(stored), "", *head, *map(_line, figures_of(stored)), "", *_runs(stored), *_missing(stored), ""]
    )


def _machines(stored: Stored) -> list[str]:
    lines: dict[str, None] = {}
    for _, entry in by_row(stored):
        context = entry["context"]
        lines[f"- {machine_line(context['machine'])}"] = None
        if context["services"] is not None:
            lines[f"- {services_line(**context['services'])}"] = None
    return list(lines)


def _runs(stored: Stored) -> list[str]:
    """Rows that were measured together, once."""
    together: dict[str, list[str]] = {}
    for row, entry in by_row(stored):
        together.setdefault(_run(entry["context"]), []).append(str(row))
    return [f"- {'rows' if len(rows) > 1 else 'row'} {', '.join(rows)}: {run}" for run, rows in together.items()]


def _run(context: dict[str, Any]) -> str:
    rounds = context["rounds"]
    each = f"medians of {rounds} interleaved rounds" if rounds > 1 else "one round"
    volume = "" if context["volume"] == 1 else f" at {context['volume']:g} of the volume"
    return f"{context['measured']}, {each}{volume}, {quiet_line(context['others'], context['seconds'])}"


def _missing(stored: Stored) -> list[str]:
    return [
        f"- row {row}: {name} was not available: {why}"
        for row, entry in by_row(stored)
        for name, why in entry["missing"].items()
    ]


def _line(figure: Figure) -> str:
    measured = f"**{shown(figure)}**" if figure.aim else shown(figure)
    noise = f"{figure.noise:.0%}" if len(figure.values) > 1 else ""
    cells = (str(figure.row), figure.what, measured, noise, _goal(figure, figure.aim), _goal(figure, figure.due))
    return f"| {' | '.join(cells)} |"


def _goal(figure: Figure, goal: Goal | None) -> str:
    if goal is None:
        return ""
    return f"{goal.sign} {goal.bound:g} {'reached' if goal.met_by(figure.value) else 'not reached'}"
