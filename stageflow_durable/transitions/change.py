"""A transition's result as data: which rows become what, and which events tell of it.

Rows are written by naming columns, never by comparing two rows: some columns (``progress``, ``published_at``) change
without a decision, so that a row in memory may be older than the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from stageflow_durable.model.work import Nudge, Refused, Work
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import HeldKey


class Table(StrEnum):
    """The tables of a run's rows, the run's own aside."""

    STRANDS = "strands"
    ATTEMPTS = "attempts"
    CHECKPOINTS = "checkpoints"
    SAGA_STEPS = "saga_steps"


KEYS: dict[Table, tuple[str, ...]] = {
    Table.STRANDS: ("strand", "item"),
    Table.ATTEMPTS: ("stage", "item", "direction", "n"),
    Table.CHECKPOINTS: ("stage", "item"),
    Table.SAGA_STEPS: ("stage", "item"),
}
"""What identifies a row, besides its run. ``item``: 0 for a stage that has none."""


class How(StrEnum):
    """How a row is written. ``INTEND``: a saga step is inserted, or owed again where it is void or was given up; one
    that is there otherwise is left as it is.
    """

    INSERT = "insert"
    UPDATE = "update"
    INTEND = "intend"


class Row(NamedTuple):
    """One row: it is inserted with its ``columns``, or they are set. ``key`` in the order of :data:`KEYS`."""

    table: Table
    key: tuple[Any, ...]
    how: How
    columns: dict[str, Any]


class KeyEnd(StrEnum):
    """How a business key of the run ends: its result is remembered; it is free again; it stays taken for its time,
    since the stage may have acted; its work was undone.
    """

    FINISHED = "finished"
    RELEASED = "released"
    ABANDONED = "abandoned"
    UNDONE = "undone"


class KeyChange(NamedTuple):
    """What becomes of a business key. ``delta``: the stage's encoded output, of a finished one; ``schema``: under which
    it was saved.
    """

    key: HeldKey
    end: KeyEnd
    delta: str | None = None
    schema: int = 1


class Event(NamedTuple):
    """One line of the run's history."""

    type: str
    data: dict[str, Any]


class Change(NamedTuple):
    """One decided transaction. It holds for the run as of ``facts.seq`` and raises that by the number of its
    events, so that a change which was decided on older facts is refused. A change without events decides nothing about
    the run: it says only when a strand is published again.

    ``granted``: an attempt that begins with it; the store gives it the code that the run has afterwards. ``refused``:
    why the message that led here begins nothing. ``nudges``: what to publish once it is applied. ``due_in``: the only
    nudge is due in that many seconds. ``ended``: the run is at rest. ``new``: the run is not there yet, and ``columns``
    are all of its row. A hint of a nudge lacks the code that the run has afterwards: that is the store's too.
    """

    facts: Facts
    columns: dict[str, Any]
    rows: tuple[Row, ...]
    events: tuple[Event, ...]
    keys: tuple[KeyChange, ...] = ()
    nudges: tuple[Nudge, ...] = ()
    granted: Work | None = None
    refused: Refused | None = None
    due_in: float | None = None
    ended: bool = False
    new: bool = False

    @property
    def seq(self) -> int:
        """The run's number afterwards."""
        return self.facts.seq + len(self.events)
