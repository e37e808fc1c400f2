"""``stageflow history RUN``: what happened to a run, event by event, once or as it goes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import UTC, date
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli.completion import runs_known
from stageflow_durable.cli.output import console, print_json, print_json_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.words import clipped
from stageflow_durable.legible import for_people, jsonable
from stageflow_durable.masking import masked_value
from stageflow_durable.model.run import Event

if TYPE_CHECKING:
    from rich.text import Text

MOST_OF_A_VALUE = 120
"""Characters that are shown of one value, unless ``--full`` is said."""

_STYLES = (
    (("failed", "exhausted", "lost"), "bold red"),
    (("parked", "waiting", "asked", "retry", "postponed"), "yellow"),
    (("compensat", "undo", "stopping"), "magenta"),
    ((".ok", "succeeded"), "green"),
)


@click.command(short_help="What happened to a run, event by event.")
@click.argument("run_id", metavar="RUN", shell_complete=runs_known)
@click.option("--follow", is_flag=True, help="Go on as the run goes, until it is at rest.")
@click.option("--after", type=click.IntRange(0), default=0, metavar="N", help="Only events after number N.")
@click.option("--full", is_flag=True, help="Values as long as they are.")
@json_option
@app_option
@click.pass_context
def history(ctx: click.Context, run_id: str, follow: bool, after: int, full: bool, as_json: bool) -> None:
    """What happened to a run: number, time (UTC), event, stage, and what was noted with it, the oldest first.

    Secrets are masked. --json: one document; with --follow an event a line.
    """
    operations = Session.of(ctx).operations()
    run = find_run(operations, run_id)
    found: Iterable[Event]
    if follow:
        found = operations.handle(run.run_id).events(after=after)
    else:
        found = [event for event in operations.history(run.run_id) if event.seq > after]
    shown = (_masked(event) for event in found)
    if not as_json:
        _print(shown, full)
    elif follow:
        for event in shown:
            print_json_line(event)
    else:
        print_json(list(shown))


def _masked(event: Event) -> Event:
    """The event, as people may see it: one of before may hold what is masked today before it is stored."""
    return replace(event, data=masked_value(dict(event.data)))


def _print(events: Iterable[Event], full: bool) -> None:
    out = console()
    with printing():
        for line in _lines(events, full):
            out.print(line, soft_wrap=True)


def _lines(events: Iterable[Event], full: bool) -> Iterator[Text]:
    from rich.text import Text

    day: date | None = None
    for event in events:
        at = event.at.astimezone(UTC)
        if at.date() != day:
            day = at.date()
            yield Text(f"{day} UTC", "bold")
        data = dict(event.data)
        where = str(data.pop("stage", None) or "") + (f"#{event.item}" if event.item else "")
        noted = "  ".join(f"{name}={_value(value, full)}" for name, value in data.items() if value is not None)
        line = Text(f"{event.seq:>4}  {at:%H:%M:%S}.{at.microsecond // 1000:03}  ")
        line.append(f"{for_people(event.type):<20}", _style(event.type))
        line.append(f"  {for_people(where)}" if where else "")
        line.append(f"  {for_people(noted)}" if noted else "", "dim")
        line.rstrip()
        yield line


def _style(kind: str) -> str:
    return next((style for words, style in _STYLES if any(word in kind for word in words)), "")


def _value(value: Any, full: bool) -> str:
    text = value if isinstance(value, str) else json.dumps(jsonable(value), ensure_ascii=False)
    return text if full else clipped(text, MOST_OF_A_VALUE)
