"""What needs a person, drawn for a terminal: a line for each group, its last error, and what to type next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from stageflow_durable.cli.output import Column, below, laid_out
from stageflow_durable.cli.why import approval_lines
from stageflow_durable.cli.words import SHORT_ID, age
from stageflow_durable.model.attention import Group

if TYPE_CHECKING:
    from rich.text import Text

_COLUMNS = (
    Column("REASON"),
    Column("PIPELINE", flexible=True),
    Column("STAGE", flexible=True),
    Column("RUNS", right=True),
    Column("OLDEST", right=True),
)


def drawn(groups: Sequence[Group], now: datetime, width: int) -> list[Text]:
    """A line for each group, and below it its last error, wrapped, and its next command, uncut to be copied."""
    rows = [
        (group.reason, group.pipeline, group.stage or "", str(group.count), age(group.oldest_at, now))
        for group in groups
    ]
    head, *lines = laid_out(_COLUMNS, rows, width)
    return [head, *(one for line, group in zip(lines, groups, strict=True) for one in (line, *_told(group, width)))]


def _told(group: Group, width: int) -> Iterator[Text]:
    from rich.text import Text

    of = f" of {group.last_run[:SHORT_ID]}" if group.count > 1 else ""
    for line in approval_lines(group.approval):
        yield from below(line if not of else f"{line}{of}", width)
    if group.missing is not None:
        yield from below(f"{group.missing.message}; {group.missing.advice}", width)
    elif group.last_error:
        what = "it waits" if group.reason.startswith("stuck") else "last error"
        yield from below(f"{what}{of}: {group.last_error}", width)
    if group.cause:
        yield from below(f"it was to be undone because: {group.cause}", width)
    yield Text.assemble("  next: ", (group.next, "bold"))
