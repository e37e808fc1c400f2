"""Parameter types and the options that several commands share."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from stageflow_durable.cli.completion import pipelines_known
from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.output import say
from stageflow_durable.cli.reading import read_source
from stageflow_durable.cli.session import Session
from stageflow_durable.cli.times import Seconds
from stageflow_durable.codec import json_mistake, strict_json
from stageflow_durable.model.status import ParkReason, RunStatus
from stageflow_durable.moments import FORMS, moment_of, told

F = TypeVar("F", bound=Callable[..., Any])

SECONDS = Seconds()
"""A number of seconds, or an age."""

MOST_RUNS = 1_000_000
"""The largest number of runs that an option may name."""


SEARCHED = timedelta(days=1)
"""How far back errors are searched where nobody says since when."""


def _moment(ctx: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """An age or a time, as an aware datetime; one without a zone is this machine's, which is said."""
    option, name = parameter.opts[0], str(parameter.name)
    if value is None:
        return None
    now = Session.of(ctx).now()
    try:
        meant = moment_of(value, now)
        if meant is None:
            raise Misuse(f"{option} {value!r} is neither {FORMS}")
        at, assumed = meant
        future = at.astimezone(UTC) > now
    except (OverflowError, ValueError):
        raise Misuse(f"{option} {value!r} is further away than dates reach") from None
    if future:
        raise Misuse(f"{option} {value!r} lies in the future: {told(at)}")
    if assumed:
        say(f"{name} {told(at)}")
    return at


def bounded(ctx: click.Context, since: datetime | None, until: datetime | None, error: str | None) -> datetime | None:
    """Since when runs are looked for. A search for errors reads each of them: it goes back a day unless told.

    Raises Misuse where nothing lies between the two.
    """
    if since is None and error is not None:
        since = (until or Session.of(ctx).now()) - SEARCHED
        say(f"errors are searched since {told(since.astimezone(UTC))}; --since looks further back")
    if since is not None and until is not None and since >= until:
        raise Misuse(f"no run begins since {told(since)} and before {told(until)}: --since is the earlier one")
    return since


def _status(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> RunStatus | None:
    """A run's status, in any case, with ``-`` or ``_``."""
    if value is None:
        return None
    try:
        return RunStatus(value.lower().replace("-", "_"))
    except ValueError:
        raise Misuse(f"--status {value!r} is not a status; there are: {', '.join(RunStatus)}") from None


def attribute_option(what: str) -> Callable[[F], F]:
    """``--attribute NAME=VALUE``, as often as it is given: the parameter ``attributes``."""
    return click.option(
        "--attribute", "attributes", multiple=True, callback=_attributes, metavar="NAME=VALUE", help=what
    )


def _attributes(_ctx: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals:
            raise Misuse(f"--attribute {one!r} is not NAME=VALUE, e.g. order=A-1")
        if found.setdefault(name, value) != value:
            raise Misuse(f"--attribute {name} is given twice, with different values")
    return found


def run_filters(command: F) -> F:
    """``--status --pipeline --client-id --since --until --error --attribute``."""
    for option in (
        attribute_option("Runs that have this attribute; given several times, that have all of them."),
        click.option(
            "--error", metavar="TEXT", help="Whose error holds this; of a day, unless --since says how far it looks."
        ),
        click.option("--until", callback=_moment, metavar="AGE|TIME", help="Begun before then."),
        click.option(
            "--since", callback=_moment, metavar="AGE|TIME", help="Begun since: 2h30m, yesterday, 2026-01-31 14:00."
        ),
        click.option("--client-id", metavar="NAME", help="Runs of this client."),
        click.option("--pipeline", metavar="NAME", help="Runs of this pipeline.", shell_complete=pipelines_known),
        click.option(
            "--status",
            callback=_status,
            metavar="STATUS",
            help=f"One of: {', '.join(RunStatus)}.",
            shell_complete=lambda _ctx, _parameter, begun: [one for one in RunStatus if one.startswith(begun.lower())],
        ),
    ):
        command = option(command)
    return command


def park_reason_option(command: F) -> F:
    """``--park-reason``: of parked runs those with this reason."""
    return click.option(
        "--park-reason", type=click.Choice([reason.value for reason in ParkReason]), help="Parked for this reason."
    )(command)


def current_actor() -> str:
    """``user@host`` of whoever types."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def json_value(text: str, option: str) -> Any:
    """JSON from the command line, ``@file`` from a file, ``@-`` from standard input."""
    return parsed(read_source(text, option), option)


def parsed(text: str, what: str) -> Any:
    """``text`` as JSON. Fails with the place of the mistake."""
    try:
        return strict_json(text)
    except ValueError as error:
        raise Misuse(f"{what} is not JSON: {json_mistake(error)}") from error
