"""``stageflow runs``: runs as a table, or what needs a person, by reason."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.attention import Group, grouped
from stageflow_durable.cli.output import print_json, print_table, say, table
from stageflow_durable.cli.parameters import run_filters
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.why import why
from stageflow_durable.cli.words import STATUS_STYLE, age, clipped, shown_length

if TYPE_CHECKING:
    from rich.table import Table

    from stageflow_durable.model.run import RunSummary
    from stageflow_durable.model.status import RunStatus


@click.command(short_help="List runs; --attention: what needs a person, by reason.")
@click.option("--attention", is_flag=True, help="What needs a person: parked, failed, undo failed, stuck; by reason.")
@run_filters
@click.option(
    "--limit", type=click.IntRange(min=1), metavar="N", help="At most so many.  [default: 100, with --attention 1000]"
)
@json_option
@app_option
@click.pass_context
def runs(
    ctx: click.Context,
    attention: bool,
    status: RunStatus | None,
    pipeline: str | None,
    client_id: str | None,
    since: datetime | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Runs, the newest first.

    With --attention those that need a person, grouped by reason, each with its count, age, last error and next command.
    """
    session = Session.of(ctx)
    most = limit or (1000 if attention else 100)
    found = session.operations().runs(
        status=status, pipeline=pipeline, client_id=client_id, since=since, attention=attention, limit=most
    )
    if as_json:
        print_json(grouped(found) if attention else found)
    else:
        _print(grouped(found) if attention else None, found, session.now())
    if len(found) == most:
        say(f"the first {most} are shown; for more say --limit, for fewer filter")


def _print(groups: list[Group] | None, found: Sequence[RunSummary], now: datetime) -> None:
    if not found:
        say("no runs" if groups is None else "nothing needs a person")
    elif groups is None:
        print_table(_listed(found, now))
    else:
        print_table(_attention(groups, now), [f"  next: {group.next}" for group in groups])


def _listed(found: Sequence[RunSummary], now: datetime) -> Table:
    from rich.text import Text

    listed = table("RUN", "PIPELINE", "STATUS", "AGE", "CLIENT", "KEY", "WHY", right=("AGE",), folding=("WHY",))
    length = shown_length(run.run_id for run in found)
    for run in found:
        status = Text(run.status, STATUS_STYLE[run.status])
        listed.add_row(
            run.run_id[:length],
            f"{run.pipeline} v{run.version}",
            status,
            age(run.created_at, now),
            run.client_id,
            clipped(run.key or "", 40),
            clipped(why(run), 80),
        )
    return listed


def _attention(groups: list[Group], now: datetime) -> Table:
    listed = table("REASON", "PIPELINE", "STAGE", "RUNS", "OLDEST", "LAST ERROR", right=("RUNS", "OLDEST"))
    for group in groups:
        listed.add_row(
            group.reason,
            group.pipeline,
            group.stage or "",
            str(group.count),
            age(group.oldest_at, now),
            clipped(group.last_error or "", 100),
        )
    return listed
