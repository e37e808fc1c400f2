"""``stageflow settle``: what a person found out about a stage whose outcome is unknown."""

from __future__ import annotations

from typing import Any

import click

from stageflow_durable.cli.failures import Failure, Misuse
from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.verb_options import options_given, perform, verb_parameters
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.engine.operator_verbs import OperatorVerbs
from stageflow_durable.model.run import Run
from stageflow_durable.model.verbs import VerbName, refusal, standing


@click.command(short_help="Say what became of a stage whose outcome is unknown.")
@verb_parameters(OperatorVerbs.settle)
@json_option
@app_option
@click.pass_context
def settle(ctx: click.Context, /, run_id: str, stage: str, as_json: bool, **given: Any) -> None:
    """Say what became of STAGE of RUN, whose outcome is unknown; the run goes on from there.

    Look the stage's key (stageflow show RUN) up at the remote system first.
    """
    not_done = given["not_done"]
    if (given["done"] is None) != not_done:
        raise Misuse("say what you found out: --done JSON (its output; null when it has none) or --not-done")
    said_of_it = options_given(OperatorVerbs.settle, given)
    operations = Session.of(ctx).operations()
    run = find_run(operations, run_id)
    _check(run, stage)
    after = perform(operations, OperatorVerbs.settle, run.run_id, stage, op_version=run.op_version, **said_of_it)
    became = "did not happen" if not_done else "is done"
    said = f"{run.run_id[:SHORT_ID]}  {stage} {became}: {run.status} → {after.status}"
    with printing(said):
        print_json(after) if as_json else print_line(said)


def _check(run: Run, stage: str) -> None:
    names = [known.name for known in run.stages]
    if stage not in names:
        raise Misuse(f"run {run.run_id} has no stage {stage!r}; it has: {', '.join(names)}")
    if why := refusal(VerbName.SETTLE, standing(run), stage=stage):
        raise Failure(f"settle of {stage} refused: {why}")
