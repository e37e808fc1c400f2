"""``stageflow up``: everything on this machine."""

from __future__ import annotations

import importlib.util
import socket
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stageflow_durable.cli.roles import MONITOR, PASSED_ON, SHIM, passed_on, queue_options, usable_schema
from stageflow_durable.cli.session import Session, app_option

if TYPE_CHECKING:
    from stageflow_durable.embedded.up import Watching
    from stageflow_durable.settings import Urls


@click.command(short_help="Everything on this machine: broker, workers, beat, monitor.", context_settings=PASSED_ON)
@click.option(
    "--concurrency",
    "-c",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    metavar="N",
    help="Processes of the worker.",
)
@click.option("--beat/--no-beat", default=True, help="A beat too; runs survive without it.  [default: yes]")
@click.option("--monitor/--no-monitor", default=None, help="Flower too.  [default: when it is installed]")
@click.option("--reload", is_flag=True, help="Start the workers again when a Python file below this directory changes.")
@app_option
@passed_on
@click.pass_context
def up(
    ctx: click.Context,
    concurrency: int,
    beat: bool,
    monitor: bool | None,
    reload: bool,
    celery_arguments: tuple[str, ...],
) -> None:
    """Broker, workers, beat and monitor on this machine, in one directory (STAGEFLOW_HOME, else .stageflow).

    Where a database and a broker are set, those are used. Ctrl-C stops all, and the next up carries on where they
    were. It tells when it is ready, what each run is at, how it ended, and what fails; -l info tells more. What follows
    the options goes to celery worker as it is.
    """
    session = Session.of(ctx)
    reference = session.application_reference()
    application = session.application()
    settings = replace(application.settings, app=reference)
    if settings.database_url and settings.broker_url:
        usable_schema(session)
    from stageflow_durable.cli.cockpit import Cockpit, hello, watching
    from stageflow_durable.cli.importable import wrong_with
    from stageflow_durable.connect import open_operations
    from stageflow_durable.embedded.reload import require_reload
    from stageflow_durable.embedded.up import Reload, run_up
    from stageflow_durable.state import schema

    if reload:
        require_reload()

    def watched(urls: Urls, page: str | None) -> AbstractContextManager[Watching]:
        at = {"database_url": urls.database_url, "broker_url": urls.broker_url, "audit_key": urls.audit_key}
        operations = open_operations(replace(settings, **at))
        ready = partial(hello, reference, application.pipelines, None if page is None else f"{page}/runs")
        return watching(Cockpit(operations, click.echo, session.now, ready, socket.gethostname()))

    flower = importlib.util.find_spec("flower") is not None if monitor is None else monitor
    served = queue_options(celery_arguments, lambda: application)
    ctx.exit(
        run_up(
            settings,
            SHIM,
            concurrency=concurrency,
            beat=beat,
            flower=flower,
            monitor=MONITOR,
            out=click.echo,
            upgrade=schema.upgrade,
            worker_options=(*served, *celery_arguments),
            watched=watched,
            reload=Reload([Path.cwd()], partial(wrong_with, reference)) if reload else None,
        )
    )
