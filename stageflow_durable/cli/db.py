"""``stageflow db``: the schema of the engine's database."""

from __future__ import annotations

import click

from stageflow_durable.cli.failures import FAILED
from stageflow_durable.cli.output import print_json, say
from stageflow_durable.cli.session import Session, app_option, json_option


@click.group(short_help="The database's schema: upgrade, current.")
@app_option
def db() -> None:
    """The schema of the engine's database."""


@db.command()
@json_option
@app_option
@click.pass_context
def upgrade(ctx: click.Context, as_json: bool) -> None:
    """Bring the schema to the version that this release needs; runs in flight survive it."""
    from stageflow_durable.state import schema

    url = Session.of(ctx).database_url()
    before = schema.current(url)
    schema.upgrade(url)
    after = schema.current(url)
    if as_json:
        print_json({"before": before, "after": after, "changed": before != after})
    else:
        click.echo(f"schema {after}, nothing to do" if before == after else f"schema {before or 'empty'} → {after}")


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
