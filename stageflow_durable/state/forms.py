"""From a change to the form of its statement and the statement's parameters.

Changes of one form share one compiled statement. The form says which columns of which tables are written, which of them
become NULL, and which become the time of the change. Everything else is a parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from stageflow_durable.state.tables import attempts, attributes, calls, checkpoints, runs, saga_steps, strands
from stageflow_durable.store.audit import EventRow
from stageflow_durable.transitions.change import Change, How
from stageflow_durable.transitions.rows import StrandRow

MOST_EVENTS = 6
"""Changes with more events take the lock: each count of events would be another statement."""

MOST_ROWS = 8
"""The same for rows."""

Marks: TypeAlias = tuple[str, ...]
"""Names of columns, with `` null`` or `` now`` behind the name if the column becomes NULL or the time of the change."""


class Form(NamedTuple):
    """What a change writes, as far as the text of its statement depends on it.

    ``columns``: of the run's row. ``rows``: for each row its table, how it is written, and its columns. ``grants``: an
    attempt begins, so its owner must be alive and its number free. ``idle``: nobody holds the strand yet. ``hinted``:
    it was decided on a hint alone, so the statement also returns what a read would have told. ``new``: the run's row is
    inserted.
    """

    columns: Marks
    rows: tuple[tuple[str, How, Marks], ...]
    events: int
    grants: bool
    idle: bool
    hinted: bool
    new: bool


def fits(change: Change) -> bool:
    """Whether a change can be applied in one statement: it has events, writes few rows, and ends no business key."""
    few = 0 < len(change.events) <= MOST_EVENTS and len(change.rows) <= MOST_ROWS
    return few and not change.keys and change.refused is None


def formed(change: Change, held: StrandRow | None, *, hinted: bool) -> tuple[Form, dict[str, Any]]:
    """The form of a change and its parameters, without those of its events (see :func:`event_values`). ``held``: the
    strand on which it was decided, as it was known; None for a new run.
    """
    facts, granted, run = change.facts, change.granted, change.facts.run
    at: float = facts.clock
    values: list[Any] = []
    columns = _marked(change.columns, at, values)
    rows = []
    for row in change.rows:
        values += row.key
        rows.append((row.table, row.how, _marked(row.columns, at, values)))
    idle = held is None or held.owner is None
    form = Form(columns, tuple(rows), len(change.events), granted is not None, idle, hinted, change.new)
    given: dict[str, Any] = dict(zip(NAMES, values, strict=False))
    given["run_id"], given["at"], given["seen_seq"], given["seen_head"] = run.id, at, facts.seq, facts.head
    if held is not None:
        given["held_strand"], given["held_gen"], given["held_stage"] = held.strand, held.gen, held.stage
        given["held_attempt"], given["me"] = held.attempt, held.owner
    if granted is not None:
        given["me"], given["next_stage"], given["next_attempt"] = granted.owner, granted.stage, granted.attempt
    if hinted:
        given["seen_definition"] = run.definition
    if change.new:
        given["client_id"], given["pipeline"], given["key"] = run.client_id, run.pipeline, run.key
    return form, given


def event_values(sealed: Sequence[EventRow]) -> dict[str, Any]:
    """The parameters of a change's events."""
    given: dict[str, Any] = {}
    for event, (kind, data, mac) in zip(sealed, EVENTS, strict=False):
        given[kind], given[data], given[mac] = event.type, event.data, event.mac
    return given


def _marked(columns: Mapping[str, Any], at: float, values: list[Any]) -> Marks:
    """The marked names of the columns; adds the values that are parameters to ``values``."""
    values += [value for value in columns.values() if value is not None and value is not at]
    return tuple(
        [
            name if value is not None and value is not at else (_NULL if value is None else _NOW)[name]
            for name, value in columns.items()
        ]
    )


_COLUMNS = {
    column.name for table in (runs, strands, attempts, checkpoints, saga_steps, attributes, calls) for column in table.c
}
_NULL, _NOW = ({name: f"{name} {mark}" for name in _COLUMNS} for mark in ("null", "now"))
NAMES = tuple(f"p{number}" for number in range(400))
"""Names of the parameters, in the order of columns and rows."""

EVENTS = tuple((f"e{number}_type", f"e{number}_data", f"e{number}_mac") for number in range(MOST_EVENTS))
"""Names of the parameters of each event: type, data, code."""
