"""``stageflow signal``: tell a run what one of its stages waits for."""

from __future__ import annotations

from typing import Any

import click

from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.engine.operator_verbs import OperatorVerbs


@click.command(short_help="Tell a run what one of its stages waits for.")
@verb_parameters(OperatorVerbs.signal)
@json_option
@app_option
@click.pass_context
def signal(ctx: click.Context, /, run_id: str, name: str, as_json: bool, **given: Any) -> None:
    """Send RUN the signal NAME: the stage of that name waits for it, or will wait.

    The payload is checked by the wait's schema. Without --app that is the one stored with the run.
    """
    options = options_given(OperatorVerbs.signal, given)
    operations = Session.of(ctx).operations()
    run = find_run(operations, run_id)
    took = perform(operations, OperatorVerbs.signal, run.run_id, name, **options)
    known = " (there already under its key)" if took.replayed else ""
    said = f"{run.run_id[:SHORT_ID]}  {name} received{known}"
    with printing(said):
        print_json(took) if as_json else print_line(said)
