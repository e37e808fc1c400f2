"""``stageflow approve | deny``: decide what a run asks for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.model.run import RunSummary


@click.command(short_help="Approve what a run asks for; it goes on.")
@verb_parameters(OperatorVerbs.approve)
@json_option
@app_option
@click.pass_context
def approve(ctx: click.Context, /, run_id: str, stage: str, as_json: bool, **given: Any) -> None:
    """Approve what STAGE of RUN asks for: look at it first (stageflow show RUN), and name its digest.

    A name that is typed here proves nothing: it does not make anybody one of the stage's approvers.
    """
    _decide(ctx, OperatorVerbs.approve, "approved", run_id, stage, as_json=as_json, given=given)


@click.command(short_help="Deny what a run asks for.")
@verb_parameters(OperatorVerbs.deny)
@json_option
@app_option
@click.pass_context
def deny(ctx: click.Context, /, run_id: str, stage: str, as_json: bool, **given: Any) -> None:
    """Deny what STAGE of RUN asks for: the run fails, is parked or goes on without it, as its definition says."""
    _decide(ctx, OperatorVerbs.deny, "denied", run_id, stage, as_json=as_json, given=given)


def _decide(
    ctx: click.Context,
    verb: Callable[..., RunSummary],
    became: str,
    run_id: str,
    stage: str,
    *,
    as_json: bool,
    given: dict[str, Any],
) -> None:
    options = options_given(verb, given)
    operations = Session.of(ctx).operations()
    run = find_run(operations, run_id)
    after = perform(operations, verb, run.run_id, stage, op_version=run.op_version, **options)
    said = f"{run.run_id[:SHORT_ID]}  {stage} {became}: {run.status} → {after.status}"
    with printing(said):
        print_json(after) if as_json else print_line(said)
