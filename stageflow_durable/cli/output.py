"""Where results and talk go: results to stdout, as tables or JSON; talk and errors to stderr."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from stageflow_durable.cli.failures import OutputLost
from stageflow_durable.legible import harmless_json, jsonable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PIPE_WIDTH = 200
"""Columns where no terminal sets a limit: what is piped to grep must not be cut at 80."""

LEAST_WIDTH = 20
"""Columns that are used even where a terminal says that it has fewer, or none."""

NARROWEST = 8
"""Columns that a flexible column keeps."""

UNBOUNDED = 100_000


def console(*, stderr: bool = False) -> Console:
    """A console on today's stdout or stderr; colours only on a terminal and without NO_COLOR."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = _columns() or (None if stream.isatty() else PIPE_WIDTH)
    # Rich fails on a number of columns that is none.
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    made = Console(
        file=stream, width=width, highlight=False, soft_wrap=False, markup=False, emoji=False, _environ=environ
    )
    made.width = max(made.width, LEAST_WIDTH)
    return made


def _columns() -> int | None:
    """What COLUMNS asks for, where it is a number that can be a width."""
    given = os.environ.get("COLUMNS", "")
    return min(max(int(given), LEAST_WIDTH), UNBOUNDED) if re.fullmatch("[1-9][0-9]{0,8}", given) else None


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a list. ``flexible``: cut with … where the window is too narrow; the others are shown whole."""

    name: str
    right: bool = False
    flexible: bool = False


def laid_out(columns: Sequence[Column], rows: Iterable[Sequence[str | Text]], width: int) -> list[Text]:
    """Head and rows as lines of at most ``width``, while that can be had by cutting flexible columns."""
    from rich.text import Text

    head = [Text(column.name, "bold") for column in columns]
    cells = [head, *([Text(cell) if isinstance(cell, str) else cell.copy() for cell in row] for row in rows)]
    widths = _fitted(columns, [max(row[n].cell_len for row in cells) for n in range(len(columns))], width)
    return [_line(columns, row, widths) for row in cells]


def listing(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], width: int) -> list[Text]:
    """The same, with the last column's text below each row, wrapped, where beside it there is no room."""
    beside = laid_out(columns, rows, UNBOUNDED)
    if max(line.cell_len for line in beside) <= width:
        return beside
    head, *lines = laid_out(columns[:-1], [row[:-1] for row in rows], width)
    paired = zip(lines, rows, strict=True)
    return [head, *(shown for line, row in paired for shown in (line, *below(str(row[-1]), width)))]


def _fitted(columns: Sequence[Column], widths: list[int], width: int) -> list[int]:
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    shrinking = [n for n, column in enumerate(columns) if column.flexible]
    while excess > 0 and (longest := max(shrinking, key=lambda n: widths[n], default=None)) is not None:
        if widths[longest] <= NARROWEST:
            break
        widths[longest] -= 1
        excess -= 1
    return widths


def _line(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int]) -> Text:
    from rich.text import Text

    for column, cell, width in zip(columns, cells, widths, strict=True):
        cell.truncate(width, overflow="ellipsis")
        cell.align("right" if column.right else "left", width)
    line = Text("  ").join(cells)
    line.rstrip()
    return line


def below(said: str, width: int) -> list[Text]:
    """``said``, wrapped and indented, to stand below a line."""
    import textwrap

    from rich.text import Text

    return [Text(f"  {line}") for line in textwrap.wrap(said, max(width - 2, 20), break_on_hyphens=False)]


def print_lines(lines: Iterable[Text | str]) -> None:
    """Lines on stdout, uncut: a command that is longer than the window can still be copied whole."""
    out = console()
    with printing():
        for line in lines:
            out.print(line, soft_wrap=True)


def print_line(text: str) -> None:
    """A line of text on stdout."""
    with printing():
        click.echo(text)


def say(message: str) -> None:
    """A line of talk, on stderr; nobody there to read it ends no command."""
    with suppress(OSError):
        click.echo(message, err=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print_line(harmless_json(json.dumps(jsonable(value), indent=2, ensure_ascii=False)))


def print_json_line(value: Any) -> None:
    """One JSON value on a line of its own, for streams."""
    print_line(harmless_json(json.dumps(jsonable(value), ensure_ascii=False)))


@contextmanager
def printing(done: str | None = None) -> Iterator[None]:
    """Where results are printed. Raises OutputLost when stdout takes them no longer; ``done`` is then said on stderr:
    what was changed all the same.
    """
    try:
        yield
    except (OutputLost, OSError) as error:
        if done is not None:
            say(f"stageflow: {done}, though it could not be printed")
        raise error if isinstance(error, OutputLost) else OutputLost(error) from error
