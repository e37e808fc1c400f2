"""``stageflow workers``: processes that own work, and those that died."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli.output import Column, console, listing, print_json, print_lines, say
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import SHORT_ID, age, counted
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.legible import for_people

if TYPE_CHECKING:
    from rich.text import Text

    from stageflow_durable.model.run import WorkerView

RECENT = timedelta(hours=1)
"""How long an orderly end is worth mentioning, and a loss worth a line."""


@click.group(invoke_without_command=True, short_help="Processes that own work, and those that died.")
@click.option("--all", "everybody", is_flag=True, help="Those too that ended, or were lost more than an hour ago.")
@json_option
@app_option
@click.pass_context
def workers(ctx: click.Context, everybody: bool, as_json: bool) -> None:
    """Worker processes: alive by the database's clock, what each is running, and which were lost.

    One is lost when its lease ran out; what it was running is taken from it by the next sweep. One that ended in order,
    or was seen to end by its parent, is only counted. --json lists all.
    """
    if ctx.invoked_subcommand is not None:
        return
    session = Session.of(ctx)
    found, now = session.operations().workers(), session.now()
    if as_json:
        print_json(found)
        return
    listed = [worker for worker in found if everybody or _matters(worker, now)]
    if listed:
        print_lines(_drawn(for_people(listed), now, console().width))
    _conclude(found, listed, now, start="stageflow up" if session.at_rest else "stageflow worker")


@workers.command("confirm-dead", short_help="Say that a lost process has ended, for undos that wait for it.")
@verb_parameters(OperatorVerbs.confirm_dead)
@json_option
@app_option
@click.pass_context
def confirm_dead(ctx: click.Context, /, owner: str, as_json: bool, **given: Any) -> None:
    """Say that the process of OWNER has ended, or can act no more: undos that wait for that begin.

    Look first: as long as it may still call the bank, what it pays after the undo stays paid. Refused while its lease
    holds, and where its end was confirmed before. OWNER is told by "stageflow show RUN" and by --all --json.
    """
    verb = OperatorVerbs.confirm_dead
    runs = perform(Session.of(ctx).operations(), verb, owner, **options_given(verb, given))
    if as_json:
        print_json({"owner": owner, "runs": runs})
        return
    click.echo(f"{owner} is confirmed dead; {counted(len(runs), 'run')} waited for it")


def _matters(worker: WorkerView, now: datetime) -> bool:
    if worker.ended_at is None or worker.running or worker.awaited:
        return True
    return not worker.confirmed and now - worker.ended_at < RECENT


def _conclude(found: Sequence[WorkerView], listed: Sequence[WorkerView], now: datetime, *, start: str) -> None:
    """What the list leaves out, and the way out when nobody is there to work."""
    if not any(worker.alive for worker in found):
        were = f" (--all: {len(found)} that were)" if len(found) > len(listed) else ""
        say(f"no worker is alive; start one: {start}{were}")
        return
    ended = sum(worker not in listed and now - (worker.ended_at or now) < RECENT for worker in found)
    if ended:
        click.echo(f"{ended} ended in the last hour (--all lists them)")


_COLUMNS = (
    Column("HOST"),
    Column("PID", right=True),
    Column("STATE"),
    Column("STARTED", right=True),
    Column("LEASE"),
    Column("RUNS"),
)


def _drawn(listed: Sequence[WorkerView], now: datetime, width: int) -> list[Text]:
    rows = [
        (
            worker.host,
            str(worker.pid),
            _state(worker, now),
            f"{age(worker.started_at, now)} ago",
            _lease(worker, now),
            _runs(worker),
        )
        for worker in listed
    ]
    return listing(_COLUMNS, rows, width)


def _state(worker: WorkerView, now: datetime) -> Text:
    from rich.text import Text

    if worker.alive:
        return Text("alive", "green")
    if worker.ended_at is None:
        return Text(f"silent for {age(worker.expires_at, now)}", "yellow")
    if worker.confirmed:
        return Text(f"ended {age(worker.ended_at, now)} ago", "dim")
    doubt = ", undos wait for its end" if worker.awaited else ""
    return Text(f"lost {age(worker.ended_at, now)} ago{doubt}", "red")


def _lease(worker: WorkerView, now: datetime) -> str:
    if worker.ended_at is not None:
        return ""
    return f"{age(now, worker.expires_at)} left" if worker.alive else "ran out"


def _runs(worker: WorkerView) -> str:
    held = "held " if worker.ended_at is not None and worker.running else ""
    return held + ", ".join(_shortened(place) for place in worker.running)


def _shortened(place: str) -> str:
    run_id, _slash, stage = place.partition("/")
    return f"{run_id[:SHORT_ID]} {stage}"
