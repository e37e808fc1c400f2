"""What a person sees while it runs: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from stageflow_durable.model.status import AT_REST

PLAIN_STEPS = 10


@dataclass(frozen=True, slots=True)
class Progress:
    """One look at the demo: runs by status, what was killed so far, requests that a service spoiled, seconds passed."""

    total: int
    statuses: Mapping[str, int] = field(default_factory=dict)
    kills: tuple[str, ...] = ()
    spoiled: int = 0
    seconds: float = 0.0

    @property
    def at_rest(self) -> int:
        """Runs that nothing automatic will move any more."""
        return sum(count for status, count in self.statuses.items() if status in AT_REST)

    @property
    def done(self) -> bool:
        """Whether all are at rest."""
        return self.at_rest >= self.total

    def line(self) -> str:
        """All of it in one line."""
        shares = "  ".join(f"{status} {count}" for status, count in sorted(self.statuses.items()))
        trouble = f"kills {len(self.kills)}  faults {self.spoiled}"
        return f"{self.seconds:5.1f}s  {self.at_rest}/{self.total} at rest  {shares}  {trouble}"


def say(console: Console, line: str) -> None:
    """One line as it is: numbers uncoloured, and long ones left to the terminal to wrap."""
    console.print(line, highlight=False, soft_wrap=True)


class Reporter(Protocol):
    """Shows progress."""

    def show(self, progress: Progress) -> None:
        """Called a few times a second."""
        ...


class _Lines:
    """For logs: a line for each tenth of the way and for each kill."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step = -1
        self._kills = 0

    def show(self, progress: Progress) -> None:
        for kill in progress.kills[self._kills :]:
            say(self._console, f"{progress.seconds:5.1f}s  {kill}")
        step = progress.at_rest * PLAIN_STEPS // max(progress.total, 1)
        if step > self._step:
            say(self._console, progress.line())
        self._step, self._kills = max(step, self._step), len(progress.kills)


class _Table:
    """For terminals: the same table, redrawn in place."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def show(self, progress: Progress) -> None:
        self._live.update(_draw(progress), refresh=True)


@contextmanager
def reporter(console: Console) -> Iterator[Reporter]:
    """The reporter that fits the console."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Table(live)


def _draw(progress: Progress) -> Table:
    title = f"{progress.at_rest} of {progress.total} orders at rest, {progress.seconds:.0f} s"
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for status, count in sorted(progress.statuses.items()):
        table.add_row(status, str(count))
    table.add_section()
    table.add_row("requests the services spoiled", str(progress.spoiled))
    for kill in progress.kills:
        table.add_row(kill, "SIGKILL")
    return table
