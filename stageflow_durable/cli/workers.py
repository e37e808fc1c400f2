"""``stageflow workers``: processes that own work, and those that died."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.output import print_json, print_table, say, table
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.words import SHORT_ID, age

if TYPE_CHECKING:
    from rich.table import Table

    from stageflow_durable.model.run import WorkerView


@click.command(short_help="Processes that own work, and those that died.")
@json_option
@app_option
@click.pass_context
def workers(ctx: click.Context, as_json: bool) -> None:
    """Worker processes that own, or owned, work: alive by the database's clock, and what each is running."""
    session = Session.of(ctx)
    found = session.operations().workers()
    if as_json:
        print_json(found)
    elif found:
        print_table(_listed(found, session.now()))
    else:
        say("no worker has registered; start one: stageflow worker")


def _listed(found: Sequence[WorkerView], now: datetime) -> Table:
    from rich.text import Text

    listed = table("HOST", "PID", "STATE", "UP", "RUNNING", right=("PID", "UP"), folding=("RUNNING",))
    for worker in found:
        state = Text("alive", "green") if worker.alive else Text(f"dead {age(worker.expires_at, now)}", "red")
        listed.add_row(
            worker.host,
            str(worker.pid),
            state,
            age(worker.started_at, now),
            ", ".join(_shortened(place) for place in worker.running),
        )
    return listed


def _shortened(place: str) -> str:
    run_id, _slash, stage = place.partition("/")
    return f"{run_id[:SHORT_ID]} {stage}"
