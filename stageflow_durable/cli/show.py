"""``stageflow show RUN``: one run as a tree, once or as it goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli.completion import runs_known
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.output import console, print_json, print_json_line
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Seconds
from stageflow_durable.cli.words import SHORT_ID
from stageflow_durable.errors import UnknownRun
from stageflow_durable.legible import jsonable
from stageflow_durable.model.run import Run
from stageflow_durable.model.status import AT_REST
from stageflow_durable.model.verbs import allowed_verbs

if TYPE_CHECKING:
    from rich.text import Text

    from stageflow_durable.cli.ports import Operations


MOST_OF_A_VALUE = 160
"""Characters that are shown of the input and of an output, unless ``--full`` is said."""


@click.command(short_help="One run as a tree, and the commands that are allowed now.")
@click.argument("run_id", metavar="RUN", shell_complete=runs_known)
@click.option("--watch", is_flag=True, help="Draw it again as it goes, until it is at rest.")
@click.option(
    "--every",
    type=Seconds(0.1),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="How often --watch looks.",
)
@click.option("--full", is_flag=True, help="Input and outputs as long as they are, tracebacks and log lines.")
@json_option
@app_option
@click.pass_context
def show(ctx: click.Context, run_id: str, watch: bool, every: float, full: bool, as_json: bool) -> None:
    """One run as a tree: input, outputs, attempts, delays, owners, undos and keys; at the end the commands that are
    allowed now. Secrets are masked.

    RUN is a run id or the beginning of one that no other run has: at least six characters; the twelve of a list do.
    """
    session = Session.of(ctx)
    run = find_run(session.operations(), run_id)
    if watch:
        _watch(session, run, every, as_json, 0 if full else MOST_OF_A_VALUE)
    elif as_json:
        print_json(as_document(run))
    else:
        _print(session, run, short_id(session.operations(), run), 0 if full else MOST_OF_A_VALUE)


def find_run(operations: Operations, run_id: str) -> Run:
    """The run of that id or prefix. Fails on a prefix too short to mean one run."""
    wanted = as_typed(run_id)
    if len(wanted) < 6:
        raise Misuse(f"{run_id!r} is too short for a run id; give at least six characters (stageflow runs lists them)")
    return operations.run(wanted)


def as_typed(run_id: str) -> str:
    """A run's id or prefix, as it was read out, or cut from a line."""
    return run_id.strip().rstrip("….").upper()


def short_id(operations: Operations, run: Run) -> str:
    """The beginning of the run's id that means this run and no other."""
    for length in range(SHORT_ID, len(run.run_id), 4):
        if _means(operations, run.run_id[:length]):
            return run.run_id[:length]
    return run.run_id


def _means(operations: Operations, prefix: str) -> bool:
    try:
        operations.run(prefix)
    except UnknownRun:
        return False
    return True


def as_document(run: Run) -> dict[str, Any]:
    """The run as JSON, with the commands that are allowed now."""
    allowed = [
        {"verb": verb.name, "stage": verb.stage, "command": verb.command, "effect": verb.effect}
        for verb in allowed_verbs(run)
    ]
    return {**jsonable(run), "waiting_for": run.waiting_for, "allowed": allowed}


def _print(session: Session, run: Run, shown_id: str, values: int) -> None:
    out = console()
    for line in _drawn(session, run, shown_id, values):
        out.print(line, soft_wrap=True)  # a command that is longer than the window can still be copied whole


def _drawn(session: Session, run: Run, shown_id: str, values: int) -> list[Text]:
    from stageflow_durable.cli.branches import ASCII
    from stageflow_durable.cli.tree import draw

    out = console()
    return draw(
        run,
        now=session.now(),
        width=out.width,
        shown_id=shown_id,
        history=session.operations().history(run.run_id),
        guides=ASCII if out.options.ascii_only else None,
        values=values,
    )


# --- as it goes -----------------------------------------------------------------------------------------------------


def _watch(session: Session, run: Run, every: float, as_json: bool, values: int) -> None:
    operations = session.operations()
    if as_json:
        _watch_json(operations, run, every)
    elif console().is_terminal:
        _watch_live(session, run, short_id(operations, run), every, values)
    else:
        _watch_lines(session, run, short_id(operations, run), every, values)


def _watch_live(session: Session, run: Run, shown: str, every: float, values: int) -> None:
    from rich.console import Group
    from rich.live import Live

    with Live(
        Group(*_drawn(session, run, shown, values)), console=console(), auto_refresh=False, vertical_overflow="visible"
    ) as live:
        for seen in _until_rest(session.operations(), run, every):
            live.update(Group(*_drawn(session, seen, shown, values)), refresh=True)


def _until_rest(operations: Operations, run: Run, every: float) -> Iterator[Run]:
    yield run
    while run.status not in AT_REST:
        threading.Event().wait(every)
        run = operations.run(run.run_id)
        yield run


def _changes(operations: Operations, run: Run, every: float) -> Iterator[Run]:
    last = None
    for seen in _until_rest(operations, run, every):
        if seen != last:
            yield seen
        last = seen


def _watch_json(operations: Operations, run: Run, every: float) -> None:
    for seen in _changes(operations, run, every):
        print_json_line(as_document(seen))


def _watch_lines(session: Session, run: Run, shown: str, every: float, values: int) -> None:
    for seen in _changes(session.operations(), run, every):
        _print(session, seen, shown, values)
