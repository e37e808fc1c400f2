"""``stageflow worker | beat | flower``: one role, as Celery runs it, with the named application."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import click

from stageflow_durable.cli.exposure import flower_arguments
from stageflow_durable.cli.failures import Failure, Misuse, one_line
from stageflow_durable.cli.output import say
from stageflow_durable.cli.session import Session, app_option
from stageflow_durable.duration import shown
from stageflow_durable.errors import Retryable, SchemaAhead
from stageflow_durable.settings.queues import QUEUE_NAME, is_queue_name

if TYPE_CHECKING:
    from stageflow_durable.cli.ports import Application

F = TypeVar("F", bound=Callable[..., Any])

SHIM = "stageflow_durable.cli.celery_app"
"""The module that Celery is pointed at: it hands over the Celery application of the named Engine."""

MONITOR = (sys.executable, "-m", "stageflow_durable.cli.monitor")
"""Flower with the application's URLs: callbacks, and links to approvals."""

_CELERY = (sys.executable, "-m", "celery", "-A", SHIM)

passed_on = click.argument("celery_arguments", metavar="[CELERY OPTIONS]...", nargs=-1, type=click.UNPROCESSED)
"""What is Celery's to read."""


def _role(command: F) -> F:
    return app_option(passed_on(command))


PASSED_ON: dict[str, Any] = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(short_help="A worker: celery worker with the application's settings.", context_settings=PASSED_ON)
@_role
@click.pass_context
def worker(ctx: click.Context, celery_arguments: tuple[str, ...]) -> None:
    """A worker. What follows goes to celery worker as it is: stageflow worker -c 4 -l info.

    All of them: celery worker --help. Without -Q it serves the queues of the application's pipelines.
    """
    served = queue_options(celery_arguments, Session.of(ctx).application)
    _become(ctx, (*_CELERY, "worker"), (*served, *celery_arguments))


@click.command(short_help="The beat: celery beat with the recovery sweep.", context_settings=PASSED_ON)
@_role
@click.pass_context
def beat(ctx: click.Context, celery_arguments: tuple[str, ...]) -> None:
    """The beat. What follows goes to celery beat as it is. Runs survive without it: every worker sweeps too."""
    _become(ctx, (*_CELERY, "beat"), celery_arguments)


@click.command(short_help="Flower, the monitor.", context_settings=PASSED_ON)
@_role
@click.pass_context
def flower(ctx: click.Context, celery_arguments: tuple[str, ...]) -> None:
    """Flower, on 127.0.0.1. What follows is read as by celery flower.

    It serves callback URLs and links to approvals too, which need no sign-in: STAGEFLOW_PUBLIC_URL is its address then.

    Another --address takes a sign-in as well: FLOWER_BASIC_AUTH=user:password, --basic-auth, --auth or --auth-provider.
    """
    if importlib.util.find_spec("flower") is None:
        raise Failure("flower is not installed: pip install 'stageflow_durable[flower]'")
    arguments = flower_arguments(celery_arguments, os.environ)
    if arguments is None:
        raise Failure(
            "flower would show runs to everybody who reaches that address, and let them revoke: set "
            "FLOWER_BASIC_AUTH=user:password (or --auth, --auth-provider), or leave --address out for 127.0.0.1"
        )
    _become(ctx, MONITOR, arguments)


def queues(application: Application) -> str:
    """The queues that the application's runs use, as ``celery worker -Q`` takes them."""
    return ",".join(application.queues)


def queue_options(celery_arguments: Sequence[str], application: Callable[[], Application]) -> tuple[str, ...]:
    """``-Q`` with the application's queues; nothing where the caller says which ones the worker serves. Raises Misuse
    when a name of the caller's is none: Celery would serve a queue that nobody publishes to.
    """
    chosen = list(_chosen_queues(celery_arguments))
    for name in chosen:
        if not is_queue_name(name):
            raise Misuse(f"-Q or -X: {shown(name)} is not {QUEUE_NAME}; several are written with commas alone: -Q a,b")
    return () if chosen else ("-Q", queues(application()))


def _chosen_queues(celery_arguments: Sequence[str]) -> Iterator[str]:
    """The names in ``-Q a,b``, ``-Qa,b``, ``--queues a,b``, ``--queues=a,b``, and the same for ``-X``."""
    for given, after in pairwise((*celery_arguments, "")):
        option, equals, value = given.partition("=")
        if option in ("--queues", "--exclude-queues"):
            yield from (value if equals else after).split(",")
        elif given.startswith(("-Q", "-X")):
            yield from (given[2:] or after).split(",")


def usable_schema(session: Session) -> None:
    """Raise SchemaBehind where every stage would fail; a newer schema, or a database that is away, is only told."""
    from stageflow_durable.state import schema

    try:
        schema.require_current(session.application().settings.require_database())
    except (SchemaAhead, Retryable) as error:
        say(f"stageflow: {one_line(str(error))}")


def _become(ctx: click.Context, command: Sequence[str], extra: Sequence[str]) -> None:
    """Replace this process by Celery's or Flower's: signals, exit code and process id are its own."""
    session = Session.of(ctx)
    reference = session.application_reference()
    # What is wrong with the name or the settings is one line here, and a traceback in Celery.
    session.application().settings.require()
    if command is not MONITOR:
        usable_schema(session)
    os.environ["STAGEFLOW_APP"] = reference
    sys.stdout.flush()
    os.execv(sys.executable, [*command, *extra])  # noqa: S606  # no shell meant
