"""``stageflow sinks``: who is told of events, how far, and what keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.output import Column, console, listing, print_json, print_line, print_lines
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.words import age
from stageflow_durable.legible import for_people
from stageflow_durable.model.sinks import SinkView
from stageflow_durable.store.values import MOST_BEHIND

if TYPE_CHECKING:
    from rich.text import Text


@click.command(short_help="Who is told of events, and how far.")
@click.option("--forget", metavar="NAME", help="Forget one that no application has any more: pruning waits for it.")
@json_option
@app_option
@click.pass_context
def sinks(ctx: click.Context, forget: str | None, as_json: bool) -> None:
    """Sinks: how many events each is behind, since when, which process tells it, and what it refused.

    One that refuses is told the same event again, later and later, and none of those after it meanwhile.
    """
    session = Session.of(ctx)
    if forget is not None:
        session.operations().forget_sink(forget)
        print_json({"forgotten": forget}) if as_json else print_line(f"{forget} is forgotten")
        return
    found = session.operations().sink_views()
    if as_json:
        print_json(found)
    elif found:
        print_lines(_drawn(for_people(found), session.now(), console().width))
    else:
        print_line("no sink is known: Engine(sinks=[…]), on_attention= and the setting notify make some")


_COLUMNS = (
    Column("SINK", flexible=True),
    Column("BEHIND", right=True),
    Column("SINCE", right=True),
    Column("LAST TOLD", right=True),
    Column("TOLD BY", flexible=True),
    Column("REFUSED"),
)


def _drawn(found: Sequence[SinkView], now: datetime, width: int) -> list[Text]:
    rows = [
        (
            view.name,
            f"{view.behind}{'+' if view.behind >= MOST_BEHIND else ''}",
            "" if view.behind_since is None else age(view.behind_since, now),
            "never" if view.delivered_at is None else f"{age(view.delivered_at, now)} ago",
            view.told_by or "",
            refusal(view, now),
        )
        for view in found
    ]
    return listing(_COLUMNS, rows, width)


def refusal(view: SinkView, now: datetime) -> str:
    """What a sink refused, in words; empty: nothing."""
    if not view.tries:
        return ""
    again = f"; again in {age(now, view.retry_at)}" if view.retry_at is not None and view.retry_at > now else ""
    return f"{view.tries} times: {view.error}{again}"
