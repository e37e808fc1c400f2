"""``stageflow prune``: delete runs that ended for good long ago."""

from __future__ import annotations

from datetime import timedelta

import click

from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.parameters import MOST_RUNS
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.words import counted
from stageflow_durable.moments import age_of


def _age(_ctx: click.Context, _parameter: click.Parameter, value: str) -> timedelta:
    try:
        age = age_of(value)
    except OverflowError:
        age = None
    if not age:
        raise Misuse(f"--older-than {value!r} is not an age; say e.g. 12h, 30d, 8w")
    return age


@click.command(short_help="Delete runs that ended for good long ago.")
@click.option("--older-than", required=True, metavar="AGE", callback=_age, help="Ended longer ago: 12h, 30d, 8w.")
@click.option("--limit", type=click.IntRange(1, MOST_RUNS), metavar="N", help="At most so many.")
@click.option("--dry-run", is_flag=True, help="Only say how many.")
@json_option
@app_option
@click.pass_context
def prune(ctx: click.Context, older_than: timedelta, limit: int | None, dry_run: bool, as_json: bool) -> None:
    """Delete runs that succeeded, failed, were cancelled or compensated, with their histories.

    Parked runs and failed undos stay: a person has to look first. Idempotency keys stay taken for 400 days. Any number
    may run at once, beside the workers.
    """
    count = Session.of(ctx).operations().prune(older_than, limit=limit, dry_run=dry_run)
    said = f"{counted(count, 'run')} {'would be ' if dry_run else ''}pruned"
    with printing(said):
        if as_json:
            print_json({"pruned": 0 if dry_run else count, "prunable": count if dry_run else None})
        else:
            print_line(said)
