"""What a shell offers while a command is typed: pipelines and recent runs. Nothing is said, nobody waits long."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from itertools import islice
from typing import TypeVar

import click
from click.shell_completion import CompletionItem

from stageflow_durable.cli.session import Session
from stageflow_durable.legible import legible
from stageflow_durable.model.verbs import APPLICABLE, VerbName

T = TypeVar("T")

PATIENCE_SECONDS = 4.0
"""A database or an application that takes longer offers nothing."""

RECENT = 100
"""Runs that are looked at."""


def runs_known(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """The newest runs whose id begins so; of those only that the verb may be for, and that are not named already."""
    name = ctx.info_name or ""
    status = sorted(APPLICABLE[VerbName(name)]) if name in APPLICABLE else None
    named = set(ctx.params.get("run_ids") or ())

    def look() -> list[CompletionItem]:
        found = Session.of(ctx).operations().runs(status=status, limit=RECENT)
        return [
            CompletionItem(run.run_id, help=legible(f"{run.pipeline} {run.status} {run.key or ''}").strip())
            for run in found
            if run.run_id.startswith(begun.upper()) and run.run_id not in named
        ]

    return _asked(ctx, look)


def pipelines_known(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[CompletionItem]:
    """Pipelines whose name begins so: the application's; without one, those of live workers and of recent runs."""

    def look() -> list[CompletionItem]:
        session = Session.of(ctx)
        names: Iterable[str]
        if session.has_application():
            names = session.application().pipelines
        else:
            operations = session.operations()
            known = {name for profile in operations.roster().profiles for name in profile.pipelines}
            names = sorted(known | {run.pipeline for run in operations.runs(limit=RECENT)})
        return [CompletionItem(name) for name in names if name.startswith(begun) and name == legible(name)]

    return _asked(ctx, look)


def _asked(ctx: click.Context, look: Callable[[], list[T]]) -> list[T]:
    """What ``look`` finds in time; whatever is wrong is told when the command is run, not while it is typed."""
    found: list[T] = []

    def tried() -> None:
        try:
            with ctx, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                found.extend(look())
        except BaseException:  # noqa: BLE001  # an application that is imported may raise anything, SystemExit too
            return

    thread = threading.Thread(target=tried, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return list(islice(found, RECENT))
