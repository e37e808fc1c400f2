"""The command tree: one table of nouns and verbs, each imported only when it is invoked."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

import click

from stageflow_durable.cli.failures import Misuse, plainly
from stageflow_durable.cli.session import Session, app_option

_HERE = "stageflow_durable.cli."

SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Processes": {
        "up": ("up", "Everything on this machine: broker, workers, beat, monitor."),
        "worker": ("roles", "A worker: celery worker with the application's settings."),
        "beat": ("roles", "The beat: celery beat with the recovery sweep."),
        "flower": ("roles", "Flower, the monitor."),
        "metrics": ("metrics", "Serve /metrics for Prometheus."),
    },
    "Runs": {
        "enqueue": ("enqueue", "Start runs, from JSON, a file or a file of lines."),
        "runs": ("runs", "List runs; --attention: what needs a person, by reason."),
        "top": ("top", "Workers, queues, rates and waits, as they go."),
        "show": ("show", "One run as a tree, and the commands that are allowed now."),
        "history": ("history", "What happened to a run, event by event."),
    },
    "Operate (each takes a reason and is recorded)": {
        "resume": ("operate", "Carry on with runs that are parked, failed or cancelled."),
        "compensate": ("operate", "Undo what runs have done, in reverse order."),
        "cancel": ("operate", "Stop runs and undo what they have done."),
        "fork": ("fork", "Start a new run from the checkpoints of another."),
        "approve": ("approve", "Approve what a run asks for; it goes on."),
        "deny": ("approve", "Deny what a run asks for."),
        "signal": ("signal", "Tell a run what one of its stages waits for."),
        "erase": ("operate", "Erase the values of runs that have ended, for good."),
        "reveal": ("reveal", "A run's values without masks."),
        "settle": ("settle", "Say what became of a stage whose outcome is unknown."),
    },
    "Keep": {
        "sweep": ("sweep", "One recovery sweep, as beat and every worker do it."),
        "prune": ("prune", "Delete runs that ended for good long ago."),
        "workers": ("workers", "Processes that own work, and those that died."),
        "sinks": ("sinks", "Who is told of events, and how far."),
        "limits": ("limits", "Limits that all workers share: slots, rates, pauses."),
        "audit": ("audit", "Whether the histories are what the engine wrote."),
        "check": ("check", "Runs that these definitions would break; before a deploy."),
        "db": ("db", "The database's schema: upgrade, current."),
        "sandbox": ("sandbox", "What isolates tools on this machine, and trying it."),
        "doctor": ("doctor", "Unsafe settings, each with the line that fixes it."),
        "chaos": ("chaos", "Your own pipeline under SIGKILL, and a verdict."),
        "demo": ("demo", "The product in a minute: killed workers, balanced books."),
    },
}
"""Section of the help -> command -> (module of this package, short help)."""

COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is asked for; errors become one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(_HERE + COMMANDS[cmd_name][0]), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of ``args``; a near miss is named in the error."""
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"no command {args[0]!r}{_meant(args[0])}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The help's list, from the table alone: nothing is imported for it."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, short) for name, (_module, short) in commands.items()], col_max=12)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Parse our own options; what is wrong with them becomes one line."""
        with plainly():
            _require_text(args)
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what goes wrong on purpose becomes one line."""
        with plainly(Session.of(ctx).explained):
            return super().invoke(ctx)


def _require_text(args: list[str]) -> None:
    """Bytes of a command line that are not UTF-8 come as lone surrogates, which no database takes."""
    for number, arg in enumerate(args, 1):
        try:
            arg.encode()
        except UnicodeEncodeError as error:
            raise Misuse(f"argument {number} is not UTF-8 at character {error.start + 1}: {arg[:60]!r}") from None


def _meant(name: str) -> str:
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"stageflow {_version()}")
        ctx.exit()


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("stageflow-durable")
    except PackageNotFoundError:
        return "(not installed)"


@click.group(cls=LazyGroup, name="stageflow", context_settings={"help_option_names": ["-h", "--help"]})
@app_option
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.pass_context
def stageflow(ctx: click.Context) -> None:
    """Durable pipelines on Celery: runs that survive any crash.

    show, runs, cancel, workers and doctor need only the database (STAGEFLOW_DATABASE_URL).
    """
    Session.of(ctx)
