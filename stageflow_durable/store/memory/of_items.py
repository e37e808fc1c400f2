"""Writing what a change says of items: their numbers, the counts of their groups, and what a run does to many at once.
The conditions are those of ``state.of_items``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.store.memory.rows import GroupRecord, ItemRecord, Tables
from stageflow_durable.store.of_items import AGAIN, AT_REST, OWED, Columns, digest_after, groups, opened
from stageflow_durable.transitions.change import (
    Count,
    FenceUndos,
    OfItems,
    OpenItems,
    RestItems,
    ReviveItems,
    UndoItems,
)
from stageflow_durable.transitions.draft import undo_strand
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import NEW_STRAND, GroupRow, StrandRow


def move(tables: Tables, facts: Facts, seq: int, head: str) -> bool:
    """Raise an item's number; False if it is not the one on which the change was decided any more."""
    key = facts.run.id, facts.item
    row = tables.items.get(key)
    if row is None or row.seq != facts.seq:
        return False
    tables.items.put(key, row._replace(seq=seq, head=head, updated_at=facts.clock))
    return True


def count(tables: Tables, facts: Facts, counts: Sequence[Count], code: str) -> str:
    """Count in the item's group. ``code``: of the change's last event. Returns the group's digest."""
    digest = digest_after(facts.group, counts, code)
    for one in counts:
        key = facts.run.id, one.strand, one.grp
        row = tables.item_groups.get(key)
        if row is not None:
            more = {name: getattr(row, name) + getattr(one, name) for name in ("running", "done", "failed")}
            tables.item_groups.put(key, row._replace(**more, digest=digest))
    return digest


def write(tables: Tables, run: str, what: OfItems, head: str, at: float) -> None:
    """What a run's change does to its items. ``head``: the code of the run's last event, ``at``: its time."""
    if isinstance(what, OpenItems):
        _open(tables, run, what, head, at)
    elif isinstance(what, RestItems):
        _set(tables, run, lambda row: row.state in (StrandState.READY, StrandState.WAITING), AT_REST)
    elif isinstance(what, ReviveItems):
        rests = StrandState.REST
        _set(tables, run, lambda row: (row.strand, row.state) == (what.strand, rests), AGAIN, fenced=True)
    elif isinstance(what, FenceUndos):
        _set(tables, run, lambda row: row.direction == Phase.BACKWARD, {}, fenced=True)
    else:
        _undo(tables, run, what)


def _set(
    tables: Tables, run: str, which: Callable[[StrandRow], bool], columns: Mapping[str, Any], *, fenced: bool = False
) -> None:
    """Change the strands of a run's items. ``fenced``: against messages and owners from before."""
    for row in [row for row in tables.strands.every(run) if row.item and which(row)]:
        tables.strands.put((run, row.strand, row.item), row._replace(gen=row.gen + fenced, **columns))


def _open(tables: Tables, run: str, what: OpenItems, head: str, at: float) -> None:
    new = opened(run, what, head, at)
    for item in new.items:
        tables.items.put((run, item["item"]), ItemRecord(**item))
    for strand in new.strands:
        tables.strands.put((run, strand["strand"], strand["item"]), NEW_STRAND._replace(**strand))
    _insert_groups(tables, new.groups)


def _undo(tables: Tables, run: str, what: UndoItems) -> None:
    strand, stage = undo_strand(what.stage), what.stage
    steps = [row for row in tables.saga_steps.every(run) if row.item and row.stage == stage]
    owed = sorted(row.item for row in steps if row.state in OWED)
    if what.again:
        _set(tables, run, lambda row: row.strand == strand and row.item in owed, AGAIN)
        for group in groups_of(tables, run, strand):
            tables.item_groups.put((run, strand, group.grp), group._replace(failed=0))
        return
    undoing = NEW_STRAND._replace(run=run, strand=strand, direction=Phase.BACKWARD, stage=stage, queue=what.queue)
    for item in owed:
        tables.strands.put((run, strand, item), undoing._replace(item=item))
    _insert_groups(tables, groups(run, strand, what.totals, collects=True))


def _insert_groups(tables: Tables, rows: Sequence[Columns]) -> None:
    for row in rows:
        tables.item_groups.put((row["run"], row["strand"], row["grp"]), GroupRecord(**row))


# --- as facts ---------------------------------------------------------------------------------------------------------


def groups_of(tables: Tables, run: str, strand: str | None = None) -> list[GroupRecord]:
    """The groups of a run's items, or of one strand's, in their order."""
    found = [row for row in tables.item_groups.of(run) if strand in (None, row.strand)]
    return sorted(found, key=lambda row: (row.strand, row.grp))


def groups_as_facts(tables: Tables, run: str) -> dict[tuple[str, int], GroupRow]:
    """Every group of a run's items."""
    return {(row.strand, row.grp): row.as_fact() for row in groups_of(tables, run)}


def owed(tables: Tables, run: str) -> dict[tuple[str, int], int]:
    """How many items of a stage and group have something to undo."""
    found: dict[tuple[str, int], int] = {}
    for item in tables.items.of(run):
        step = tables.saga_steps.get((run, item.stage, item.item))
        if step is not None and step.state in OWED:
            found[item.stage, item.grp] = found.get((item.stage, item.grp), 0) + 1
    return found
