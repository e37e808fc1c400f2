"""What the demo says at the end: the refused lines, the books in one table, and whether they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stageflow_durable.demo.evidence import Evidence
from stageflow_durable.demo.mischief import Fault
from stageflow_durable.demo.progress import say
from stageflow_durable.demo.reconcile import Difference

SHOWN_DIFFERENCES = 20
TROUBLE = {
    "work.retry_attempt": "attempts retried",
    "stage.lost": "stages taken over from a killed process",
    "stage.nudged": "lost messages published again",
    "stage.woken": "due stages woken by the sweep",
    "work.compensation_executed": "undos executed",
}
KINDS = ("reserve", "release", "charge", "refund", "ship")


def announce(console: Console, evidence: Evidence) -> bool:
    """Print refused lines, table and verdict; whether the books agree."""
    differences = evidence.differences()
    for line in evidence.intake.refused:
        say(console, f"  line {line.line:>3} refused: {escape(line.reason)}")
    console.print(_table(evidence))
    _explain_failed(console, evidence)
    _print_differences(console, differences)
    say(console, _sentence(evidence, differences))
    return not differences


def _table(evidence: Evidence) -> Table:
    table = Table(title="The books", title_justify="left", show_header=False)
    table.add_column("what")
    table.add_column("count", justify="right")
    for section in (_lines(evidence), _runs(evidence), _effects(evidence), _trouble(evidence)):
        for what, count in section:
            table.add_row(what, str(count))
        table.add_section()
    return table


def _lines(evidence: Evidence) -> list[tuple[str, int]]:
    intake = evidence.intake
    return [
        ("lines read", evidence.lines),
        ("  accepted", len(intake.accepted)),
        ("  the same order again, answered with its run", len(intake.repeated)),
        ("  refused, with line number and reason", len(intake.refused)),
    ]


def _runs(evidence: Evidence) -> list[tuple[str, int]]:
    counts = Counter(run.status for run in evidence.runs)
    return [(f"runs {status}", count) for status, count in sorted(counts.items())]


def _effects(evidence: Evidence) -> list[tuple[str, int]]:
    counts = Counter(effect.kind for effect in evidence.effects)
    ledgers = [(f"ledger: {kind}", counts[kind]) for kind in KINDS]
    return [*ledgers, ("letters sent", len(evidence.letters))]


def _trouble(evidence: Evidence) -> list[tuple[str, int | str]]:
    faults = [(f"service: {name}", count) for name, count in sorted(evidence.faults.items()) if name != Fault.NONE]
    engine = [(f"engine: {words}", evidence.events.get(name, 0)) for name, words in TROUBLE.items()]
    kills = [("SIGKILL", f"{len(evidence.progress.kills)} of {evidence.kills_wanted}")]
    return [*faults, *engine, *kills]


def _explain_failed(console: Console, evidence: Evidence) -> None:
    """Say why failed runs and books that agree go together; nothing where a ledger has something of one."""
    failed = {run.order_id for run in evidence.runs if run.status == "failed"}
    touched = failed.intersection([*(effect.order_id for effect in evidence.effects), *evidence.letters])
    if failed and not touched:
        say(
            console,
            "Failed runs are orders that were refused before anything was done (what they cost does not add up, or the "
            "warehouse has none): nothing had to be undone, and the ledgers have nothing of them.",
        )


def _print_differences(console: Console, differences: Sequence[Difference]) -> None:
    for difference in differences[:SHOWN_DIFFERENCES]:
        say(console, f"[red]DIFFERENCE[/red] {escape(difference.subject)}: {escape(difference.what)}")
    if len(differences) > SHOWN_DIFFERENCES:
        say(console, f"… and {len(differences) - SHOWN_DIFFERENCES} more")


def _sentence(evidence: Evidence, differences: Sequence[Difference]) -> str:
    took = f"{evidence.progress.seconds:.0f} s, {len(evidence.progress.kills)} kills"
    if differences:
        return f"[red]The books do not agree: {len(differences)} differences[/red] ({took})"
    promise = f"each of {len(evidence.intake.accepted)} orders was delivered exactly once or wholly undone"
    return f"[green]The books agree:[/green] {promise} ({took})"
