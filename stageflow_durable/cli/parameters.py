"""Parameter types and the options that several commands share."""

from __future__ import annotations

import getpass
import json
import re
import socket
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from stageflow_durable.cli.failures import Misuse
from stageflow_durable.cli.session import Session
from stageflow_durable.model.status import ParkReason, RunStatus

F = TypeVar("F", bound=Callable[..., Any])

_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNIT = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def age_of(text: str) -> timedelta | None:
    """``30m``, ``2h``, ``7d``; None: it is no age. Raises OverflowError."""
    match = _AGO.fullmatch(text.strip())
    return timedelta(**{_UNIT[match[2]]: float(match[1])}) if match else None


def _since(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> datetime | None:
    """``2h``, ``30m``, ``7d``, or an ISO 8601 time with its zone, as an aware datetime."""
    if value is None:
        return None
    try:
        if (age := age_of(value)) is not None:
            return Session.of(ctx).now() - age
        at = datetime.fromisoformat(value)
    except (ValueError, OverflowError):
        raise Misuse(f"--since {value!r} is neither an age (30m, 2h, 7d) nor a time (2026-01-31T08:00:00Z)") from None
    if at.tzinfo is None:
        raise Misuse(f"--since {value!r} has no time zone; say which, e.g. {value}Z")
    return at


def _status(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> RunStatus | None:
    """A run's status, in any case, with ``-`` or ``_``."""
    if value is None:
        return None
    try:
        return RunStatus(value.lower().replace("-", "_"))
    except ValueError:
        raise Misuse(f"--status {value!r} is not a status; there are: {', '.join(RunStatus)}") from None


def run_filters(command: F) -> F:
    """``--status --pipeline --client-id --since``."""
    for option in (
        click.option("--since", callback=_since, metavar="AGE|TIME", help="Begun since: 2h, 7d, 2026-01-31T08:00:00Z."),
        click.option("--client-id", metavar="NAME", help="Runs of this client."),
        click.option("--pipeline", metavar="NAME", help="Runs of this pipeline."),
        click.option("--status", callback=_status, metavar="STATUS", help=f"One of: {', '.join(RunStatus)}."),
    ):
        command = option(command)
    return command


def park_reason_option(command: F) -> F:
    """``--park-reason``: of parked runs those with this reason."""
    return click.option(
        "--park-reason", type=click.Choice([reason.value for reason in ParkReason]), help="Parked for this reason."
    )(command)


def accountable(command: F) -> F:
    """``--reason`` (asked for on a terminal) and ``--actor``: who did it, and why, stand in the run's history."""
    for option in (
        click.option("--actor", metavar="WHO", default=current_actor, help="Who does it; else user@host."),
        click.option("--reason", metavar="TEXT", callback=_reason, help="Why; required, stands in the history."),
    ):
        command = option(command)
    return command


def _reason(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    if value is None and sys.stdin.isatty() and not ctx.resilient_parsing:
        value = click.prompt("Reason", err=True, type=str)
    if not (value or "").strip() and not ctx.resilient_parsing:
        raise Misuse(f'{ctx.info_name} needs --reason "…": it stands in the run\'s history')
    return (value or "").strip()


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


def read_source(text: str, option: str) -> str:
    """What ``text`` stands for: itself, or the contents of ``@file`` or ``@-``."""
    if not text.startswith("@"):
        return text
    if text == "@-":
        return sys.stdin.read()
    try:
        return Path(text[1:]).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Misuse(f"{option} {text}: {getattr(error, 'strerror', None) or error}") from error


def parsed(text: str, what: str) -> Any:
    """``text`` as JSON. Fails with the place of the mistake."""
    try:
        return strict_json(text)
    except ValueError as error:
        raise Misuse(f"{what} is not JSON: {json_mistake(error)}") from error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def json_mistake(error: ValueError) -> str:
    """Where and what, in a few words."""
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        return f"{error.msg[:1].lower()}{error.msg[1:]} at {line}column {error.colno}"
    return str(error)


def strict_json(text: str) -> Any:
    """JSON without NaN and Infinity. Raises ValueError."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
