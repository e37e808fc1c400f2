"""``stageflow fork``: a new run from the checkpoints of another."""

from __future__ import annotations

import click

from stageflow_durable.cli.output import print_json, print_line, printing
from stageflow_durable.cli.parameters import accountable
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.show import find_run
from stageflow_durable.cli.words import SHORT_ID


@click.command(short_help="Start a new run from the checkpoints of another.")
@click.argument("run_id", metavar="RUN")
@click.option("--from", "from_stage", metavar="STAGE", required=True, help="Where the new run begins.")
@click.option("--idempotency-key", metavar="KEY", help="Fork once under this key, however often it is asked for.")
@accountable
@json_option
@app_option
@click.pass_context
def fork(
    ctx: click.Context,
    run_id: str,
    from_stage: str,
    idempotency_key: str | None,
    reason: str,
    actor: str,
    as_json: bool,
) -> None:
    """Start a new run that begins at STAGE with the outputs that RUN has by now.

    Outputs are copied, obligations are not: what RUN did is undone, if ever, by RUN. Nothing of RUN changes.
    """
    operations = Session.of(ctx).operations()
    original = find_run(operations, run_id)
    made = operations.fork(original.run_id, from_stage, reason=reason, actor=actor, idempotency_key=idempotency_key)
    known = " (there already under its key)" if made.replayed else ""
    said = f"{made.run_id}  from {from_stage} of {original.run_id[:SHORT_ID]}{known}"
    with printing(f"made {said}"):
        if as_json:
            print_json({"run_id": made.run_id, "replayed": made.replayed, "of": original.run_id, "from": from_stage})
        else:
            print_line(said)
