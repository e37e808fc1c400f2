"""A transition's result as data: which columns of which rows are written, and which events are appended.

A change names the columns that it writes; it is not the difference of two rows. Some columns (``progress``,
``published_at``) change without a decision, so a row in memory may be older than the one in the table.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple, TypeAlias

from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.work import Nudge, Refused, Work
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import HeldKey, SlotKey, SlotRow


class Table(StrEnum):
    """The tables that hold rows of a run, other than ``runs``."""

    STRANDS = "strands"
    ATTEMPTS = "attempts"
    CHECKPOINTS = "checkpoints"
    SAGA_STEPS = "saga_steps"
    ATTRIBUTES = "attributes"
    SIGNALS = "signals"
    APPROVALS = "approvals"
    LINKS = "links"
    CALLS = "calls"


KEYS: dict[Table, tuple[str, ...]] = {
    Table.STRANDS: ("strand", "item"),
    Table.ATTEMPTS: ("stage", "item", "direction", "n"),
    Table.CHECKPOINTS: ("stage", "item"),
    Table.SAGA_STEPS: ("stage", "item"),
    Table.ATTRIBUTES: ("name",),
    Table.SIGNALS: ("stage", "item", "n"),
    Table.APPROVALS: ("stage", "item", "n"),
    Table.LINKS: ("token",),
    Table.CALLS: ("stage", "item", "call"),
}
"""What identifies a row, besides its run. ``item``: 0 for a stage that has none."""


class How(StrEnum):
    """How a row is written. ``INTEND``: insert a saga step; a step that is there becomes *intended* again if it is void
    or skipped, and is left alone otherwise.
    """

    INSERT = "insert"
    UPDATE = "update"
    INTEND = "intend"


class Row(NamedTuple):
    """One row, to be inserted or updated with ``columns``. ``key`` is in the order of :data:`KEYS`."""

    table: Table
    key: tuple[Any, ...]
    how: How
    columns: dict[str, Any]


class KeyEnd(StrEnum):
    """How a run's claim of a business key ends. ``FINISHED``: the result is remembered. ``RELEASED``: the key is free.
    ``ABANDONED``: the key stays taken until it expires, since the stage may have acted. ``UNDONE``: its work was
    undone.
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


class Count(NamedTuple):
    """By how much the counts of a group of items change. Increments commute: no count is read to be written."""

    strand: str
    grp: int
    running: int = 0
    done: int = 0
    failed: int = 0


class OpenItems(NamedTuple):
    """Insert the items of a stage, numbered from ``first``, their strands, and ``groups`` groups that count them.
    ``inputs``: encoded text.
    """

    stage: str
    first: int
    inputs: tuple[str, ...]
    groups: int
    collects: bool
    queue: str


class RestItems(NamedTuple):
    """Bring every item of the run that no owner holds to rest."""


class ReviveItems(NamedTuple):
    """Make the items of a strand that rest ready again, each with a higher fence."""

    strand: str


class FenceUndos(NamedTuple):
    """Raise the fences of the undos of all items, because a person has decided anew about them."""


class UndoItems(NamedTuple):
    """Open a strand for the undo of each item of ``stage`` that owes one; ``totals``: how many there are, by group.
    ``again``: they were opened before, and those that are not undone become ready again.
    """

    stage: str
    queue: str
    totals: dict[int, int]
    again: bool


OfItems: TypeAlias = OpenItems | RestItems | ReviveItems | FenceUndos | UndoItems
"""Changes to many items at once, which single rows cannot express."""


class SlotChange(NamedTuple):
    """What becomes of slots: rows to be put in place of those that are there, the keys of those that go, and the
    waiting ones for which a slot has become free: whoever commits wakes their strands. ``tokens``: of rate limits, how
    many are left, and at what time.
    """

    put: tuple[SlotRow, ...]
    gone: tuple[SlotKey, ...]
    woken: tuple[SlotRow, ...]
    tokens: tuple[tuple[PoolId, float, float], ...] = ()


def woken_by(change: Change) -> list[SlotRow]:
    """Those for whom a change of a run, or of an item and its run, has freed slots."""
    return [row for one in (change, change.run) if one is not None and one.slots is not None for row in one.slots.woken]


class Change(NamedTuple):
    """One decided transaction. It is valid while the run's number is ``facts.seq``, and raises that number by the
    count of its events, so a change that was decided on older facts is refused. A change without events decides nothing
    about the run; it only says when a strand is published again.

    ``granted``: an attempt that begins in this transaction. ``refused``: why the message that led here begins nothing.
    ``nudges``: what to publish once the change is applied. ``due_in``: in how many seconds its only nudge is due.
    ``ended``: the run is at rest. ``new``: the run is inserted, and ``columns`` are its whole row. The store fills in
    the head that the run has afterwards, in ``head``, in ``granted`` and in the nudges' hints.

    A change of an item (``facts.item``) raises the item's number instead, and writes nothing of the run's row.
    ``counts``: what it changes in its group. ``run``: the change of the run that is applied with it. ``of_items``: what
    a run's change does to its items. ``slots``: what it changes of the slots of limits.
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
    counts: tuple[Count, ...] = ()
    of_items: tuple[OfItems, ...] = ()
    run: Any = None
    head: str = ""
    slots: SlotChange | None = None

    @property
    def seq(self) -> int:
        """The run's number afterwards."""
        return self.facts.seq + len(self.events)
