"""``stageflow fork``: a new run from the checkpoints of another."""

from __future__ import annotations

from typing import Any

import click

from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.engine.operator_verbs import OperatorVerbs


@click.command(short_help="Start a new run from the checkpoints of another.")
@verb_parameters(OperatorVerbs.fork)
@json_option
@app_option
@click.pass_context
def fork(ctx: click.Context, /, run_id: str, as_json: bool, **given: Any) -> None:
    """Start a new run that begins at STAGE with the outputs that RUN has by now.

    Outputs are copied, obligations are not: what RUN did is undone, if ever, by RUN. Nothing of RUN changes.
    """
    operations = Session.of(ctx).operations()
    original = find_run(operations, run_id)
    made = perform(operations, OperatorVerbs.fork, original.run_id, **options_given(OperatorVerbs.fork, given))
    from_stage = given["from_stage"]
    known = " (there already under its key)" if made.replayed else ""
    said = f"{made.run_id}  from {from_stage} of {original.run_id[:SHORT_ID]}{known}"
    with printing(f"made {said}"):
        if as_json:
            print_json({"run_id": made.run_id, "replayed": made.replayed, "of": original.run_id, "from": from_stage})
        else:
            print_line(said)
