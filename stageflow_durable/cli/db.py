"""``stageflow db``: the schema of the engine's database."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.failures import FAILED
from stageflow_durable.cli.output import print_json, say
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.words import duration
from stageflow_durable.legible import jsonable

if TYPE_CHECKING:
    from stageflow_durable.state.schema import Step


@click.group(short_help="The database's schema: upgrade, current.")
@app_option
def db() -> None:
    """The schema of the engine's database."""


@db.command()
@click.option("--dry-run", is_flag=True, help="Change nothing; say what would be locked, and about how long.")
@json_option
@app_option
@click.pass_context
def upgrade(ctx: click.Context, dry_run: bool, as_json: bool) -> None:
    """Bring the schema to the version that this release needs; runs in flight survive it."""
    from stageflow_durable.state import schema

    url = Session.of(ctx).database_url()
    before = schema.current(url)
    if dry_run:
        _tell(before, schema.head(), schema.steps(url), as_json)
        return
    schema.upgrade(url)
    after = schema.current(url)
    if as_json:
        print_json({"before": before, "after": after, "changed": before != after})
    else:
        click.echo(f"schema {after}, nothing to do" if before == after else f"schema {before or 'empty'} → {after}")


def _tell(before: str | None, after: str, steps: list[Step], as_json: bool) -> None:
    if as_json:
        told = [{**jsonable(step), "seconds": round(step.seconds, 1)} for step in steps]
        print_json({"before": before, "after": after, "steps": told})
        return
    click.echo(f"schema {before or 'empty'} → {after}" if steps else f"schema {after}, nothing to do")
    for step in steps:
        click.echo(f"{step.revision}  {step.title}")
        for line in _told(step):
            click.echo(f"      {line}")


def _told(step: Step) -> Iterator[str]:
    if step.workers:
        yield f"refused while {step.workers} worker processes are at work: stop them first (stageflow workers)"
    elif step.workers is not None:
        yield "no worker may be at work; none is"
    rows = sum(lock.rows for lock in step.locks)
    if rows:
        names = ", ".join(lock.table for lock in step.locks)
        yield f"locks {names}: about {rows:,} rows, about {duration(step.seconds)}"
    else:
        yield "locks nothing for longer than a moment"


@db.command()
@json_option
@app_option
@click.pass_context
def current(ctx: click.Context, as_json: bool) -> None:
    """The schema's version, and the one that this release needs. Exits 1 when they differ."""
    from stageflow_durable.state import schema

    found, needed = schema.current(Session.of(ctx).database_url()), schema.head()
    if as_json:
        print_json({"current": found, "head": needed, "up_to_date": found == needed})
    else:
        click.echo(f"schema {found or 'empty'}, needed {needed}")
    if found != needed:
        ahead = schema.is_ahead(found)
        say(
            "stageflow: "
            + (
                f"a newer release made schema {found}; deploy it here too"
                if ahead
                else "the schema is behind; run: stageflow db upgrade"
            )
        )
        ctx.exit(FAILED)
