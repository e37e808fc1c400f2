"""Results for a person, for a program and for the documentation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from tests.benchmarks.figures import Figure, Goal, Samples

QUIET = 0.1
"""Share of the CPU that others may have without spoiling the rates."""


@dataclass(frozen=True, slots=True)
class Results:
    """Everything a run found. ``context``: machine, services, seconds it took, share of the CPU that others had;
    ``missing``: what could not be measured, and why.
    """

    context: dict[str, Any]
    samples: Samples
    figures: list[Figure]
    missing: dict[str, str] = field(default_factory=dict)


def table(figures: Iterable[Figure], rounds: int) -> Table:
    """One line a figure; a goal that was not reached is red."""
    made = Table(title=f"medians of {rounds} interleaved rounds", title_justify="left")
    for heading in ("row", "figure", "measured", "±", "goal of the design", "due now"):
        made.add_column(heading, justify="right" if heading in ("row", "measured", "±") else "left")
    before = None
    for figure in figures:
        if before not in (None, figure.row):
            made.add_section()
        before = figure.row
        made.add_row(
            str(figure.row),
            figure.what,
            shown(figure),
            f"{figure.noise:.0%}",
            _goal(figure, figure.aim),
            _goal(figure, figure.due),
        )
    return made


def shown(figure: Figure) -> str:
    """The median with its unit."""
    return _number(figure.value, figure.unit)


_DIGITS = {"ms": ".2f", "s": ".3f", "×": ".2f", "µs": ",.1f"}


def _number(value: float, unit: str) -> str:
    digits = _DIGITS.get(unit, ",.0f") if unit != "ms" or value >= 1 else ".2g"
    return f"{value:{digits}} {unit}".replace(" /s", "/s").strip()


def _goal(figure: Figure, goal: Goal | None) -> str:
    if goal is None:
        return ""
    color, word = ("green", "reached") if goal.met_by(figure.value) else ("red", "not reached")
    return f"{goal.sign} {_number(goal.bound, figure.unit)} [{color}]{word}[/{color}]"


def named(context: dict[str, Any]) -> str:
    """The machine, what ran on it, and how busy it was."""
    lines = [machine_line(context["machine"])]
    if context["services"] is not None:
        lines.append(services_line(**context["services"]))
    return "\n".join([*lines, quiet_line(context["others"], context["seconds"])])


def quiet_line(others: float, seconds: float) -> str:
    """How far to trust the rates."""
    verdict = "" if others < QUIET else ": too much to trust rates and ratios, only CPU times hold"
    return f"took {seconds:.0f} s, of which other processes had {others:.0%} of the CPU{verdict}"


def machine_line(found: dict[str, Any]) -> str:
    """Processor, Python and libraries."""
    libraries = ", ".join(f"{name} {number}" for name, number in found["libraries"].items())
    return (
        f"{found['cores']} cores {found['cpu']}, {found['memory_gb']} GB, {found['python']}; "
        f"{found['children']} prefork children; {libraries}"
    )


def services_line(broker: dict[str, Any], database: dict[str, Any]) -> str:
    """What the services promise to keep."""
    return (
        f"{broker['server']} {broker['version']}, appendonly {broker['appendonly']}, "
        f"appendfsync {broker['appendfsync']}; PostgreSQL {database['server_version']}, fsync {database['fsync']}, "
        f"synchronous_commit {database['synchronous_commit']}"
    )
