"""Results as a file: row by row with what each was measured on, so that separate runs make one table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import Figure, Goal
from tests.benchmarks.report import Results
from tests.benchmarks.rows import ROWS, probes_of

Stored = dict[str, Any]


def as_json(results: Results) -> Stored:
    """Each row with its figures, the samples of its probes, and the machine."""
    return {"rows": {str(row): _row(row, results) for row in sorted({figure.row for figure in results.figures})}}


def _row(row: int, results: Results) -> Stored:
    probes = probes_of([row])
    figures = [figure for figure in results.figures if figure.row == row]
    # Some rows are measured once, however many rounds the others have.
    rounds = max(len(figure.values) for figure in figures)
    return {
        "title": ROWS[row].title,
        "context": {**results.context, "rounds": rounds},
        "missing": {name: why for name, why in results.missing.items() if name in probes},
        "figures": list(map(_figure, figures)),
    }


def _figure(figure: Figure) -> Stored:
    return {
        "what": figure.what,
        "unit": figure.unit,
        "median": figure.value,
        "rounds": list(figure.values),
        "noise": figure.noise,
        "goal": _bound(figure, figure.aim),
        "due": _bound(figure, figure.due),
    }


def _bound(figure: Figure, goal: Goal | None) -> Stored | None:
    return None if goal is None else {"sign": goal.sign, "bound": goal.bound, "reached": goal.met_by(figure.value)}


def figures_of(stored: Stored) -> list[Figure]:
    """The figures again, in the order of their rows."""
    return [_figure_of(row, found) for row, entry in by_row(stored) for found in entry["figures"]]


def by_row(stored: Stored) -> list[tuple[int, Stored]]:
    """Rows by their numbers."""
    return sorted((int(row), entry) for row, entry in stored["rows"].items())


def _figure_of(row: int, found: Stored) -> Figure:
    return Figure(row, found["what"], found["unit"], tuple(found["rounds"]), _goal(found["goal"]), _goal(found["due"]))


def _goal(found: Mapping[str, Any] | None) -> Goal | None:
    return None if found is None else Goal(found["sign"], found["bound"])


def load(path: Path) -> Stored:
    """What a file has; nothing, where there is none."""
    found: Stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": {}}
    return found


def merged(before: Stored, after: Stored) -> Stored:
    """The rows of both; the later ones where both have them."""
    return {"rows": {**before["rows"], **after["rows"]}}


def save(path: Path, stored: Stored) -> None:
    """Write all of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
