"""``stageflow runs``: runs as a table, or what needs a person, by reason."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.attention import drawn
from stageflow_durable.cli.completion import runs_known
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.output import Column, console, listing, print_json, print_lines, say
from stageflow_durable.cli.parameters import MOST_RUNS, bounded, run_filters
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import as_typed
from stageflow_durable.cli.words import STATUS_STYLE, age, clipped, shown_length
from stageflow_durable.legible import for_people, iso, jsonable, legible
from stageflow_durable.model.attention import Group, grouped
from stageflow_durable.model.why import why

if TYPE_CHECKING:
    from rich.text import Text

    from stageflow_durable.cli.ports import Operations
    from stageflow_durable.model.run import RunSummary
    from stageflow_durable.model.status import RunStatus


@click.command(short_help="List runs; --attention: what needs a person, by reason.")
@click.option("--attention", is_flag=True, help="What needs a person: parked, failed, undo failed, stuck; by reason.")
@run_filters
@click.option(
    "--limit",
    type=click.IntRange(1, MOST_RUNS),
    metavar="N",
    help="At most so many.  [default: 100, with --attention 1000]",
)
@click.option(
    "--after",
    metavar="RUN",
    shell_complete=runs_known,
    help="The next page: what stands behind this run in the list.",
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
    until: datetime | None,
    error: str | None,
    attributes: dict[str, str],
    limit: int | None,
    after: str | None,
    as_json: bool,
) -> None:
    """Runs, the newest first. Where there are more, it says how to see the next page.

    With --attention those that need a person, grouped by reason, each with its count, age, last error and next command.
    """
    session = Session.of(ctx)
    most = limit or (1000 if attention else 100)
    if attention and after is not None:
        raise Misuse("--attention lists all of it, in groups: leave --after out")
    since = bounded(ctx, since, until, error)
    operations = session.operations()
    found = operations.runs(
        status=status,
        pipeline=pipeline,
        client_id=client_id,
        since=since,
        attention=attention,
        limit=most if attention else most + 1,
        attributes=attributes,
        until=until,
        error=error,
        after=None if after is None else as_typed(after),
    )
    more = not attention and len(found) > most
    found = found[:most] if more else found
    groups = grouped(found, operations.run) if attention else None
    if as_json:
        print_json([{**jsonable(run), "waiting_for": run.waiting_for} for run in found] if groups is None else groups)
    else:
        _print(for_people(groups), for_people(found), session.now())
    if pipeline is not None and not found:
        _say_if_unknown(operations, pipeline)
    if more:
        asked = {"status": status, "pipeline": pipeline, "client-id": client_id, "error": error, "limit": limit}
        asked |= {name: iso(at) for name, at in (("since", since), ("until", until)) if at}
        say(f"there are more: {_next_page(asked, attributes, found[-1].run_id)}")
    elif attention and len(found) >= most:
        say(f"the first {most} are shown; for more say --limit, for fewer filter")


def _next_page(asked: Mapping[str, object], attributes: Mapping[str, str], last: str) -> str:
    """The line to type for what follows; ages are times in it, so that they stay where they are."""
    line = ["stageflow", "runs"]
    for option, value in (*asked.items(), *(("attribute", f"{name}={value}") for name, value in attributes.items())):
        line += [] if value is None else [f"--{option}", str(value)]
    return legible(shlex.join([*line, "--after", last]))


def _say_if_unknown(operations: Operations, pipeline: str) -> None:
    """A name that was mistyped finds nothing either."""
    roster = operations.roster()
    names = {name for profile in roster.profiles for name in profile.pipelines}
    if pipeline in names or operations.runs(pipeline=pipeline, limit=1):
        return
    near = difflib.get_close_matches(pipeline, sorted(names), 1)
    meant = f"; did you mean {near[0]}?" if near else f"; live workers know: {roster.known}"
    say(f"there is no run of a pipeline {pipeline!r}{meant}")


def _print(groups: list[Group] | None, found: Sequence[RunSummary], now: datetime) -> None:
    if not found:
        say("no runs" if groups is None else "nothing needs a person")
        return
    width, length = console().width, shown_length(run.run_id for run in found)
    if groups is None:
        print_lines(listing(_LISTED, [_row(run, length, now) for run in found], width))
    else:
        print_lines(drawn(groups, now, width))


_LISTED = (
    Column("RUN"),
    Column("PIPELINE", flexible=True),
    Column("STATUS"),
    Column("AGE", right=True),
    Column("CLIENT", flexible=True),
    Column("KEY", flexible=True),
    Column("WHY"),
)


def _row(run: RunSummary, length: int, now: datetime) -> tuple[str | Text, ...]:
    from rich.text import Text

    return (
        run.run_id[:length],
        f"{run.pipeline} v{run.version}",
        Text(run.status, STATUS_STYLE[run.status]),
        age(run.created_at, now),
        run.client_id,
        clipped(run.key or "", 40),
        clipped(why(run), 160),
    )
