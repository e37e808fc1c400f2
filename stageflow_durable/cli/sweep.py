"""``stageflow sweep``: one recovery sweep by hand."""

from __future__ import annotations

import click

from stageflow_durable.cli.failures import FAILED
from stageflow_durable.cli.output import print_json, say
from stageflow_durable.cli.session import Session, app_option, json_option


@click.command(short_help="One recovery sweep, as beat and every worker do it.")
@json_option
@app_option
@click.pass_context
def sweep(ctx: click.Context, as_json: bool) -> None:
    """One recovery sweep: take from dead owners, wake what is due, publish what was not.

    Any number of sweeps may run at once. Exits 1 when there were runs that it could not handle.
    """
    report = Session.of(ctx).operations().sweep()
    if as_json:
        print_json(report)
    else:
        click.echo(
            f"owners found dead {report.owners_dead}, taken from them {report.taken}, woken {report.woken}, "
            f"published {report.nudged}, deadlines passed {report.deadlines}"
            + (f", repaired {report.repaired}: look at their histories" if report.repaired else "")
        )
    for problem in report.problems:
        say(f"stageflow: {problem}")
    if report.problems:
        ctx.exit(FAILED)
