"""The arithmetic to 100 million stages a day, from what was measured on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tests.benchmarks.stored import Stored, figures_of

STAGES_A_DAY = 100_000_000
STAGES_A_RUN = 10
PEAK = 3
"""How many times the mean a busy hour is; an assumption, as is the next."""
KEPT_DAYS = 7
SECONDS_A_DAY = 86_400

WORKER_CPU = (1, "CPU of the worker, a durable stage")
SERVICES_CPU = (1, "CPU of database and broker, a durable stage")
LEFT = (11, "what a run of 10 stages of 1 KB leaves")
LOGGED = (11, "what such a run writes to the write-ahead log")
PRUNED = (11, "prune, a batch of 500 runs of 10 stages")
NEEDED = (WORKER_CPU, SERVICES_CPU, LEFT, LOGGED, PRUNED)


class Line(NamedTuple):
    """One step: what, the number, and from what."""

    what: str
    number: str
    derived: str


def arithmetic(stored: Stored) -> list[Line]:
    """Line by line; nothing as long as a figure that it needs was not measured."""
    measured = {(figure.row, figure.what): figure.value for figure in figures_of(stored)}
    return list(_lines(measured)) if all(name in measured for name in NEEDED) else []


def _lines(measured: Mapping[tuple[int, str], float]) -> Iterator[Line]:
    mean, runs = STAGES_A_DAY / SECONDS_A_DAY, STAGES_A_DAY / STAGES_A_RUN
    peak = mean * PEAK
    worker, services, left, logged, pruned = (measured[name] for name in NEEDED)
    yield Line("stages a second, mean", f"{mean:,.0f}", f"{STAGES_A_DAY:,} / {SECONDS_A_DAY:,} s")
    yield Line("stages a second, busy hour", f"{peak:,.0f}", f"assumed: {PEAK} × the mean")
    yield Line("cores of workers, busy hour", f"{peak * worker / 1000:.1f}", f"row 1: {worker:.2f} ms of CPU a stage")
    yield Line(
        "cores of PostgreSQL and broker, busy hour",
        f"{peak * services / 1000:.1f}",
        f"row 1: {services:.2f} ms of CPU a stage",
    )
    yield Line("messages a second, busy hour", f"{peak / STAGES_A_RUN:,.0f}", f"one a run of {STAGES_A_RUN} stages")
    yield Line(
        "commits a second, busy hour",
        f"{peak * (STAGES_A_RUN + 2) / STAGES_A_RUN:,.0f}",
        f"a run of {STAGES_A_RUN} stages: enqueue, begin, and one a stage",
    )
    yield Line(
        "write-ahead log, busy hour",
        f"{peak / STAGES_A_RUN * logged / 1e6:,.0f} MB/s",
        f"row 11: {logged:,.0f} bytes a run",
    )
    yield Line("growth a day", f"{runs * left / 1e9:,.0f} GB", f"row 11: {left:,.0f} bytes a run")
    yield Line(f"tables, kept for {KEPT_DAYS} days", f"{runs * left * KEPT_DAYS / 1e12:,.2f} TB", "growth × days")
    yield Line("runs to prune a second, mean", f"{mean / STAGES_A_RUN:,.0f}", "as many as are enqueued")
    yield Line(
        "share of the time in which a prune works",
        f"{mean / STAGES_A_RUN / 500 * pruned / 1000:.0%}",
        f"row 11: {pruned:,.0f} ms for 500 runs",
    )


def markdown(stored: Stored) -> str:
    """The table."""
    rows = [f"| {line.what} | {line.number} | {line.derived} |" for line in arithmetic(stored)]
    return "\n".join(["| | | from |", "|---|---|---|", *rows, ""])
