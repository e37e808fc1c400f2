"""``stageflow chaos``: the application's own pipeline under SIGKILL, and whether the engine kept its promise."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import click

from stageflow_durable.cli.failures import FAILED, Misuse
from stageflow_durable.cli.output import console, print_json, say
from stageflow_durable.cli.parameters import json_value
from stageflow_durable.cli.roles import SHIM, queues
from stageflow_durable.cli.session import Session, app_option, json_option
from stageflow_durable.cli.times import Finite, Seconds
from stageflow_durable.cli.words import counted
from stageflow_durable.errors import InvalidInput, UnknownPipeline

if TYPE_CHECKING:
    from stageflow_durable import Engine
    from stageflow_durable.chaos.judge import Verdict

SHOWN = 10
NOTHING_PROVED = 3
"""Exit code: nothing broke, and nothing was put to the test."""


@click.command(short_help="Your own pipeline under SIGKILL, and a verdict.")
@click.argument("pipeline")
@click.option("--input", "source", metavar="JSON|@FILE|@-", default="{}", show_default=True, help="Of every run.")
@click.option("--runs", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N", help="How many.")
@click.option(
    "--kills",
    type=click.IntRange(0, 1000),
    default=6,
    show_default=True,
    metavar="K",
    help="SIGKILLs on the way: pool children, whole workers, the broker, in turn.",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="S", help="Decides who is killed, and when.")
@click.option(
    "--minutes",
    type=Finite(min=0),
    default=0,
    metavar="M",
    help="Again and again with the next seed, for so long.  [default: once]",
)
@click.option(
    "--patience",
    type=Seconds(1),
    default=120,
    show_default=True,
    metavar="SECONDS",
    help="For all runs of a round to come to rest.",
)
@json_option
@app_option
@click.pass_context
def chaos(ctx: click.Context, /, pipeline: str, source: str, as_json: bool, **wishes: Any) -> None:
    """Run PIPELINE again and again while its processes are killed, then judge the record.

    Broker, database and two workers are started for this alone, in a temporary directory; the application's own are
    not touched. What its stages do to the world is done: point them at test accounts first. Exits 1 when a run did
    not come to rest, was lost, or had a stage committed twice; 3 when no kill hit a stage at work: that proves nothing.
    """
    session = Session.of(ctx)
    reference = session.application_reference()
    application = session.application()
    if pipeline not in application.pipelines:
        raise Misuse(str(UnknownPipeline(pipeline, tuple(application.pipelines))))
    value = json_value(source, "--input")
    from stageflow_durable.chaos import run

    signal.signal(signal.SIGTERM, _exit)
    try:
        verdict = run.run_chaos(
            cast("Engine", application),
            reference,
            run.Wish(pipeline, value, **wishes),
            app=SHIM,
            options=lambda: ("-Q", queues(application)),
            say=say,
        )
    except (InvalidInput, RuntimeError) as error:  # a worker that keeps dying by itself says where its log is
        raise (Misuse if isinstance(error, InvalidInput) else click.ClickException)(str(error)) from error
    if as_json:
        print_json({**_fields(verdict), "holds": verdict.holds, "proves": verdict.proves})
    else:
        _show(verdict)
    ctx.exit(_exit_code(verdict))


def _fields(verdict: Verdict) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(verdict)


def _exit_code(verdict: Verdict) -> int:
    if not verdict.holds:
        return FAILED
    return 0 if verdict.proves or not verdict.asked else NOTHING_PROVED


def _exit(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _show(verdict: Verdict) -> None:
    from rich.table import Table

    out = console()
    table = Table(title=f"{verdict.pipeline}: stages", title_justify="left")
    for name in ("stage", "runs", "body called", "more than once in", "lost with a process", "undone in"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for stage in verdict.stages:
        counts = (stage.runs, stage.bodies, stage.again, stage.lost, stage.undone)
        table.add_row(stage.name, *map(str, counts))
    out.print(table)
    ends = ", ".join(f"{count} {status}" for status, count in verdict.statuses.items())
    out.print(f"{verdict.accepted} runs accepted: {ends}", soft_wrap=True)
    out.print(f"{_kills(verdict)} in {verdict.seconds:.0f} s, seed {verdict.seed}", soft_wrap=True)
    if again := [stage.name for stage in verdict.stages if stage.again]:
        out.print(
            f"called more than once in a run: {', '.join(again)}. What these do has to be idempotent: hand "
            "ctx.idempotency_key to the remote side",
            soft_wrap=True,
        )
    _list(out, "need a person (stageflow show says why)", verdict.attention)
    _list(out, "did not come to rest", verdict.unfinished)
    _list(out, "accepted, and not in the database", verdict.missing)
    _list(out, "committed or undone twice", verdict.twice)
    out.print(_sentence(verdict), soft_wrap=True)


def _kills(verdict: Verdict) -> str:
    made = f"{len(verdict.kills)} of {counted(verdict.asked, 'SIGKILL')}"
    return f"{made} made; {counted(verdict.interrupted, 'stage')} interrupted at work"


def _sentence(verdict: Verdict) -> str:
    if not verdict.holds:
        return "The engine BROKE its promise; see above."
    if verdict.proves:
        under = f"The engine kept its promise, with {counted(verdict.interrupted, 'stage')} interrupted"
        return f"{under}: every run is at rest, none is lost, no stage was committed twice."
    nothing = "Nothing broke, and nothing was proved: no stage was at work when a kill came."
    if not verdict.asked:
        return "No kill was asked for: every run is at rest, which proves nothing about crashes."
    return f"{nothing} Give them more to do (--runs {10 * verdict.accepted}), more --kills, or slower stages."


def _list(out: Any, what: str, found: Any) -> None:
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        out.print(f"{what}: {', '.join(found[:SHOWN])}{more}", soft_wrap=True)
