"""``stageflow limits``: limits that all workers share, how they stand; to pause, resume and set them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stageflow_durable.cli.output import Column, console, listing, print_json, print_lines, say
from stageflow_durable.cli.parameters import current_actor
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Seconds
from stageflow_durable.cli.words import age
from stageflow_durable.legible import for_people

if TYPE_CHECKING:
    from stageflow_durable.engine.limits import LimitView

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = (
    Column("LIMIT"),
    Column("KEY"),
    Column("TAKEN", right=True),
    Column("WAITING", right=True),
    Column("STATE"),
)


@click.group(invoke_without_command=True, short_help="Limits that all workers share: slots, rates, pauses.")
@json_option
@app_option
@click.pass_context
def limits(ctx: click.Context, as_json: bool) -> None:
    """Limits that all workers share, by key where they have one: what is taken, who waits, what is paused."""
    if ctx.invoked_subcommand is not None:
        return
    session = Session.of(ctx)
    found, now = session.operations().limits.list(), session.now()
    if as_json:
        print_json(found)
        return
    if not found:
        say("no stage with limits has run yet")
        return
    rows = [
        (one.name, one.key, _taken(one), str(one.waiting) if one.waiting else "", _state(one, now))
        for one in for_people(found)
    ]
    print_lines(listing(_COLUMNS, rows, console().width))


def _taken(one: LimitView) -> str:
    return f"{one.held} of {one.limit}" if one.rate is None else f"{one.rate:g}/s, burst {one.limit}"


def _state(one: LimitView, now: datetime) -> str:
    paused = "" if one.paused_until is None else f"paused for {age(now, one.paused_until)}"
    was = "" if one.limit == one.declared else f"set; {one.declared} as declared"
    said = f"({one.said})" if one.said and (paused or was) else ""
    return " ".join(part for part in (paused, was, said) if part)


def _word(command: F) -> F:
    """What every word about a limit takes."""
    for option in (
        click.option("--actor", default=current_actor, metavar="WHO", help="Who says so; left out: you."),
        click.option("--reason", required=True, metavar="TEXT", help="Why; shown beside the limit."),
    ):
        command = option(command)
    return command


_key = click.option("--key", metavar="KEY", help="Only for this key; left out: for all.")


@limits.command("pause", short_help="Let nobody begin what needs the limit, for a time.")
@click.argument("name", metavar="NAME")
@_key
@click.option("--for", "seconds", type=Seconds(0.001), required=True, metavar="SECONDS|30s|2m|1h", help="For how long.")
@_word
@app_option
@click.pass_context
def pause(ctx: click.Context, /, name: str, key: str | None, seconds: float, reason: str, actor: str) -> None:
    """Let nobody begin what needs the limit NAME, for a time. What runs goes on; who waits keeps its place."""
    Session.of(ctx).operations().limits.pause(name, key, until=timedelta(seconds=seconds), reason=reason, actor=actor)
    click.echo(f"{name}{_of(key)} is paused for {seconds:g} s")


@limits.command("resume", short_help="End a pause.")
@click.argument("name", metavar="NAME")
@_key
@_word
@app_option
@click.pass_context
def resume(ctx: click.Context, /, name: str, key: str | None, reason: str, actor: str) -> None:
    """End the pause of the limit NAME, or of one of its keys; who waits begins."""
    Session.of(ctx).operations().limits.resume(name, key, reason=reason, actor=actor)
    click.echo(f"{name}{_of(key)} goes on")


@limits.command("set", short_help="Set how many slots there are, whatever definitions say.")
@click.argument("name", metavar="NAME")
@click.argument("number", metavar="N|declared")
@_word
@app_option
@click.pass_context
def set_limit(ctx: click.Context, /, name: str, number: str, reason: str, actor: str) -> None:
    """Set how many slots each key of the limit NAME has, or the burst of a rate limit; "declared": what definitions say
    counts again. What runs goes on, also where there are fewer slots now.
    """
    if number != "declared" and not (number.isascii() and number.isdigit()):
        raise click.BadParameter(f"{number!r} is no whole number, nor 'declared'", param_hint="N")
    Session.of(ctx).operations().limits.set(
        name, None if number == "declared" else int(number), reason=reason, actor=actor
    )
    click.echo(f"{name} is {'as declared' if number == 'declared' else number}")


def _of(key: str | None) -> str:
    return "" if key is None else f" of {for_people(key)}"
