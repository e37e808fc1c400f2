"""``stageflow check``: unfinished runs that the application's definitions would break; before a deploy."""

from __future__ import annotations

from dataclasses import dataclass

import click

from stageflow_durable.cli.failures import FAILED
from stageflow_durable.cli.output import Column, console, listing, print_json, print_lines, say
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.words import counted, shown_length
from stageflow_durable.legible import legible


@dataclass(frozen=True, slots=True)
class Broken:
    """A run that could not go on, and why."""

    run_id: str
    pipeline: str
    status: str
    why: str


@click.command(short_help="Runs that these definitions would break; before a deploy.")
@json_option
@app_option
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """List unfinished runs that could not go on under the application's pipelines as they are now, and why.

    Run it with the new code before it is deployed: exit 1 when there is one. Nothing is changed.
    """
    found = [Broken(run.run_id, run.pipeline, run.status, why) for run, why in Session.of(ctx).application().check()]
    if as_json:
        print_json(found)
    elif found:
        length = shown_length(one.run_id for one in found)
        columns = (Column("run"), Column("pipeline", flexible=True), Column("status"), Column("why"))
        rows = [(one.run_id[:length], one.pipeline, one.status, legible(one.why)) for one in found]
        print_lines(listing(columns, rows, console().width))
        say(f"{counted(len(found), 'run')} would be parked; keep the old stages until they have ended")
    else:
        say("every unfinished run can go on")
    if found:
        ctx.exit(FAILED)
