"""``stageflow audit``: whether the histories are what the engine wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.failures import FAILED, Misuse
from stageflow_durable.cli.output import print_json, print_line, say
from stageflow_durable.cli.reading import decoded, unreadable
from stageflow_durable.cli.session import Session, json_option
from stageflow_durable.cli.words import counted
from stageflow_durable.codec import strict_json

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Operations


@click.group(short_help="Whether the histories are what the engine wrote.")
def audit() -> None:
    """Every event of a run is chained to the one before by an HMAC whose key (STAGEFLOW_AUDIT_KEY) is not in the
    database, and says what was written to the run's rows.
    """


@audit.command(short_help="Find events and rows that were changed, added or removed.")
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option(
    "--heads", "heads_file", type=click.Path(path_type=Path), metavar="FILE", help="Also against heads from before."
)
@json_option
@click.pass_context
def verify(ctx: click.Context, run_ids: tuple[str, ...], heads_file: Path | None, as_json: bool) -> None:
    """Check the histories of all runs, or of those named, and the rows that they vouch for: inputs, outputs, clients,
    keys, statuses, attempts, undos. Exit 1 when one is not whole.

    Whoever can write to the database can put a whole run back to what it was earlier, or delete it with all its rows:
    that shows only against a file of heads (stageflow audit heads) that is kept elsewhere.
    """
    operations = Session.of(ctx).operations()
    heads = {} if heads_file is None else _read(heads_file)
    runs = events = before = 0
    broken = []
    for checked in operations.audit(run_ids or None, heads):
        runs, events = runs + 1, events + checked.events
        before += not checked.rows and not checked.problems
        if checked.problems:
            broken.append(checked)
            if not as_json:
                for problem in checked.problems:
                    print_line(f"{checked.run_id}  {problem}")
    if as_json:
        print_json({"runs": runs, "events": events, "rows_not_covered": before, "broken": broken})
    else:
        result = f"{counted(len(broken), 'run')} not whole" if broken else "all whole"
        say(f"{counted(runs, 'run')}, {counted(events, 'event')}: {result}{_left_out(operations, before)}")
    if broken:
        ctx.exit(FAILED)


@audit.command(short_help="Print the end of each history, to be kept elsewhere.")
@click.pass_context
def heads(ctx: click.Context) -> None:
    """One line of JSON a run: its id, the number of its last event and that one's code. Keep them where whoever writes
    to the database cannot.
    """
    for run_id, seq, mac in Session.of(ctx).operations().audit_heads():
        print_line(json.dumps({"run_id": run_id, "seq": seq, "head": mac}))


def _left_out(operations: Operations, before: int) -> str:
    if not operations.has_audit_key:
        return (
            "; no audit key is set (STAGEFLOW_AUDIT_KEY): this shows accidents, not attackers, and only in events: "
            "without a key they say nothing of inputs, outputs and statuses"
        )
    if not before:
        return ""
    return (
        f"; {counted(before, 'run')} from before the history covered inputs, outputs and statuses: only events checked"
    )


def _read(path: Path) -> dict[str, tuple[int, str]]:
    found: dict[str, tuple[int, str]] = {}
    try:
        lines = decoded(path.read_bytes(), f"--heads {path}").splitlines()
    except (OSError, ValueError) as error:
        raise unreadable(str(path), "--heads", error) from error
    for number, line in enumerate(lines, 1):
        try:
            read = strict_json(line)
            found[str(read["run_id"])] = (int(read["seq"]), str(read["head"]))
        except (ValueError, KeyError, TypeError, OverflowError):
            raise Misuse(f"--heads {path}: line {number} is not a line of stageflow audit heads") from None
    return found
