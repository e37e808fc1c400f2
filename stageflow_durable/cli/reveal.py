"""``stageflow reveal``: a run's values as they are, which stands in its history."""

from __future__ import annotations

import json
from typing import Any

import click

from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.legible import harmless_json, jsonable, legible
from stageflow_durable.model.run import Revealed


@click.command(short_help="A run's values without masks.")
@verb_parameters(OperatorVerbs.reveal)
@json_option
@app_option
@click.pass_context
def reveal(ctx: click.Context, /, run_id: str, as_json: bool, **given: Any) -> None:
    """The input, the metadata and what each stage of RUN saved, as they are. Other commands mask secrets.

    Who looked and why stands in the run's history, also where the values cannot be printed.
    """
    options = options_given(OperatorVerbs.reveal, given)
    operations = Session.of(ctx).operations()
    run = find_run(operations, run_id)
    found: Revealed = perform(operations, OperatorVerbs.reveal, run.run_id, **options)
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: Revealed) -> None:
    values = [("input", found.input), ("metadata", found.metadata)]
    values += [(f"output of {legible(stage)}", value) for stage, value in found.outputs.items()]
    width = max(len(name) for name, _value in values)
    with printing():
        for name, value in values:
            print_line(f"{name:<{width}}  {harmless_json(json.dumps(jsonable(value), ensure_ascii=False))}")
