"""Where results and talk go: results to stdout, as tables or JSON; talk and errors to stderr."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 200
"""Columns where no terminal sets a limit: what is piped to grep must not be cut at 80."""


def console(*, stderr: bool = False) -> Console:
    """A console on today's stdout or stderr; colours only on a terminal and without NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False)


def table(*columns: str, right: tuple[str, ...] = (), folding: tuple[str, ...] = ()) -> Table:
    """A plain table; ``right`` names the columns of numbers, ``folding`` those whose text may wrap."""
    from rich.table import Table

    plain = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in columns:
        plain.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in folding,
            overflow="fold" if name in folding else "ellipsis",
        )
    return plain


def print_table(listed: Table, below: Sequence[str] = ()) -> None:
    """The table on stdout, without the blanks that pad its last column.

    ``below``: a line to print under each row, uncut, so that a command in it can be copied.
    """
    out = console()
    with out.capture() as captured:
        out.print(listed)
    for number, line in enumerate(captured.get().splitlines()):
        click.echo(line.rstrip(), color=True)
        if number and below:
            click.echo(below[number - 1])


def say(message: str) -> None:
    """A line of talk, on stderr."""
    click.echo(message, err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(jsonable(value), indent=2, ensure_ascii=False))


def print_json_line(value: Any) -> None:
    """One JSON value on a line of its own, for streams."""
    click.echo(json.dumps(jsonable(value), ensure_ascii=False))


def jsonable(value: Any) -> Any:
    """``value`` as plain JSON: records by their fields, times as ISO 8601 in UTC, durations in seconds, else text."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if isinstance(value, Mapping):
        return {str(jsonable(key)): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [jsonable(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return jsonable(value.value)
    if isinstance(value, datetime):
        return iso(value) if value.tzinfo else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return jsonable(value.model_dump()) if hasattr(value, "model_dump") else str(value)


def iso(at: datetime) -> str:
    """``2026-01-31T03:02:11.123456Z``."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
