"""``stageflow sandbox``: what isolates tools on this machine, and trying it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli.checks import Check, Level, ok
from stageflow_durable.cli.failures import FAILED
from stageflow_durable.cli.output import Column, console, listing, print_json, print_line, print_lines, say
from stageflow_durable.cli.parameters import json_value
from stageflow_durable.cli.session import json_option
from stageflow_durable.cli.times import Seconds
from stageflow_durable.legible import legible
from stageflow_durable.masking import masked

if TYPE_CHECKING:
    from stageflow_durable.sandbox import SandboxPolicy, SandboxResult, Verdict

LEVELS = ("process", "container", "kernel", "machine")
COLUMNS = (
    Column("backend"),
    Column("level"),
    Column("works"),
    Column("why not, or what it does not stop", flexible=True),
)


@click.group(short_help="What isolates tools on this machine, and trying it.")
def sandbox() -> None:
    """Sandboxes: what runs tools that are not trusted."""


@sandbox.command(short_help="Run a trivial program in each backend, and say which work.")
@json_option
@click.pass_context
def probe(ctx: click.Context, as_json: bool) -> None:
    """Run a trivial program in each backend of this machine and say which of them work, and why the others do not.

    Exits 1 when none isolates more than a process.
    """
    from stageflow_durable.sandbox import SandboxLevel
    from stageflow_durable.sandbox import probe as probed

    found = probed(anew=True)
    if as_json:
        print_json([_told(verdict) for verdict in found])
    else:
        rows = [(one.backend, one.level.name.lower(), "yes" if one.works else "NO", _why(one)) for one in found]
        print_lines(listing(COLUMNS, rows, console().width))
    if not any(one.works and one.level > SandboxLevel.PROCESS for one in found):
        ctx.exit(FAILED)


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "backend": verdict.backend,
        "level": verdict.level.name.lower(),
        "works": verdict.works,
        "reason": verdict.reason,
        "not_stopped": verdict.not_stopped,
    }


def _why(verdict: Verdict) -> str:
    return f"does not stop: {verdict.not_stopped}" if verdict.works else legible(masked(verdict.reason or ""))


@sandbox.command(short_help="Run a command in a sandbox.", context_settings={"ignore_unknown_options": True})
@click.argument("command", metavar="COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "--level", type=click.Choice(LEVELS), default="container", show_default=True, help="What isolates less is not used."
)
@click.option("--backend", metavar="NAME", help="Use this one, or none.")
@click.option("--read-only", multiple=True, metavar="PATH", help="A path that it can read, beside the system's.")
@click.option("--output", multiple=True, metavar="NAME", help="Show this file of its work directory.")
@click.option("--input", "text", default="null", metavar="JSON|@FILE", help="What it reads from stdin.")
@click.option(
    "--wall", type=Seconds(0.05), default=60.0, show_default=True, metavar="SECONDS", help="How long it may take."
)
@click.option(
    "--memory", type=click.IntRange(4), default=512, show_default=True, metavar="MIB", help="How much it may have."
)
@json_option
@click.pass_context
def run(ctx: click.Context, /, command: tuple[str, ...], text: str, as_json: bool, **options: Any) -> None:
    """Run a command in a sandbox as a stage would, and show what came out: stdout, stderr, files, what it used.

    Options stand before the command. Exits 1 where the command fails, reaches a limit, or nothing isolates as is asked.
    """
    from stageflow_durable.sandbox import ToolFailed
    from stageflow_durable.sandbox import run as run_in_sandbox

    given = json_value(text, "--input")
    try:
        result = run_in_sandbox(command, _policy(options), input=given)
    except ToolFailed as error:
        say(f"stageflow: {legible(masked(str(error)))}")
        result, failed = error.result, True
    else:
        failed = False
    if result is not None:
        _show(result, as_json=as_json)
    if failed:
        ctx.exit(FAILED)


def _policy(options: dict[str, Any]) -> SandboxPolicy:
    from stageflow_durable.sandbox import SYSTEM_PATHS, SandboxLevel, SandboxLimits, SandboxPolicy

    return SandboxPolicy(
        read_only=(*SYSTEM_PATHS, *options["read_only"]),
        outputs=options["output"],
        limits=SandboxLimits(wall=options["wall"], memory=options["memory"] << 20),
        minimum_level=SandboxLevel[options["level"].upper()],
        backend=options["backend"],
    )


def _show(result: SandboxResult, *, as_json: bool) -> None:
    if as_json:
        print_json({**result.as_output(), "limit": result.limit})
        return
    for line in result.stdout.splitlines():
        print_line(legible(line))
    for line in result.stderr.splitlines():
        say(legible(line))
    for name, data in result.files.items():
        say(f"{legible(name)}: {len(data):,} bytes")
        for line in data.decode("utf-8", "backslashreplace").splitlines():
            print_line(legible(line))
    used = ", ".join(f"{name} {value:,.3f}".rstrip("0").rstrip(".") for name, value in result.usage.items())
    say(f"exit code {result.exit_code}, by {result.backend}; {used}")


# --- for doctor -------------------------------------------------------------------------------------------------------


def stages(pipelines: Sequence[Any]) -> Iterator[Check]:
    """Whether the sandboxes of an application's stages can be had on this machine; nothing where it has none."""
    found = list(_sandboxed(pipelines))
    if not found:
        return
    from stageflow_durable.sandbox import SandboxLevel, SandboxUnavailable
    from stageflow_durable.sandbox.backends import chosen

    missing, weak = [], []
    for name, policy in found:
        try:
            if chosen(policy).level is SandboxLevel.PROCESS:
                weak.append(name)
        except SandboxUnavailable as error:
            missing.append((name, str(error)))
    if missing:
        names = ", ".join(name for name, _why_not in missing)
        yield Check(
            "sandbox", Level.FAIL, f"{names}: {missing[0][1]}", "apt-get install bubblewrap, on each worker's machine"
        )
    elif weak:
        said = f"{', '.join(weak)}: run beside everything else, as for development"
        yield Check("sandbox", Level.WARN, said, "minimum_level=SandboxLevel.CONTAINER in their policy")
    else:
        yield ok("sandbox", f"each of {len(found)} sandboxed stages is isolated on this machine")


def _sandboxed(pipelines: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for pipeline in pipelines:
        for spec in pipeline.stages:
            owner: Any = getattr(spec.runner, "__self__", None)
            # By name: an application without sandboxes imports nothing of them.
            if any(one.__module__ == "stageflow_durable.sandbox.stage" for one in type(owner).__mro__):
                yield f"{pipeline.name}.{spec.name}", owner.policy
