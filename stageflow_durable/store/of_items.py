"""What a change does to items, as rows: the same in every store, which says how they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stageflow_durable.model.status import OPEN_STEPS, Phase, StepState, StrandState
from stageflow_durable.store.audit import NOTHING, sum_of_codes
from stageflow_durable.transitions.change import Change, Count, OpenItems
from stageflow_durable.transitions.draft import AWAKE
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.groups import group_of
from stageflow_durable.transitions.rows import OF_A_STAGE, GroupRow, ItemRow, StrandRow

JOINED = "stage.joined"
DIGEST = "digest"
"""The event of a join, and its field with the sum of the codes of the events by which the stage's items ended."""

OWED = (*sorted(OPEN_STEPS), StepState.COMPENSATION_FAILED)
"""States of the saga step of an item that owes an undo."""

AT_REST: Mapping[str, Any] = {"state": StrandState.REST.value, "published_at": None, **AWAKE}
"""The columns of an item's strand that comes to rest."""

AGAIN: Mapping[str, Any] = {
    "state": StrandState.READY.value,
    **OF_A_STAGE,
    **AWAKE,
    **dict.fromkeys(("owner", "published_at")),
}
"""The columns of an item's strand that is ready anew. It has no message: the sweep publishes it."""

Columns = dict[str, Any]


class Opened(NamedTuple):
    """The rows of the items of a stage that is opened, of their strands and of their groups."""

    items: list[Columns]
    strands: list[Columns]
    groups: list[Columns]


def opened(run_id: str, what: OpenItems, head: str, at: float) -> Opened:
    """The rows of new items. ``head``: the code of the run's event that opens them, ``at``: its time."""
    numbered = list(enumerate(what.inputs, what.first))
    of = {item: group_of(item, what.first, what.groups) for item, _given in numbered}
    row: Columns = {"run": run_id, "stage": what.stage, "seq": 0, "head": head, "updated_at": at}
    items = [{**row, "item": item, "grp": of[item], "input": given} for item, given in numbered]
    strand: Columns = {"run": run_id, "strand": what.stage, "direction": Phase.FORWARD.value, "stage": what.stage}
    strand |= {"state": StrandState.READY.value, "queue": what.queue, "published_at": at}
    strands = [{**strand, "item": item} for item, _given in numbered]
    totals = [list(of.values()).count(grp) for grp in range(what.groups)]
    return Opened(items, strands, groups(run_id, what.stage, dict(enumerate(totals)), collects=what.collects))


def groups(run_id: str, strand: str, totals: Mapping[int, int], *, collects: bool) -> list[Columns]:
    """The rows of new groups of a strand's items; ``totals``: how many there are, by group."""
    row: Columns = {"run": run_id, "strand": strand, "running": 0, "done": 0, "failed": 0, "digest": NOTHING}
    return [{**row, "grp": grp, "total": total, "collects": collects} for grp, total in totals.items()]


def digest_after(group: GroupRow, counts: Sequence[Count], code: str) -> str:
    """The digest of an item's group once it has counted a change, whose last event has that ``code``: the group adds up
    those that end an item.
    """
    digest = group.digest
    for one in counts:
        if one.done or one.failed:
            digest = sum_of_codes((digest, code))
    return digest


def with_digest(change: Change, group: GroupRow, digest: str) -> Change:
    """A run's change, whose event of the join, if there is one, names the sum of all groups. ``digest``: that of the
    ``group`` of the item that ended last.
    """
    if not any(event.type == JOINED for event in change.events):
        return change
    others = [one for one in change.facts.groups.values() if one.strand == group.strand and one.grp != group.grp]
    told = sum_of_codes((digest, *(one.digest for one in others)))
    events = [
        event._replace(data={**event.data, DIGEST: told}) if event.type == JOINED else event for event in change.events
    ]
    return change._replace(events=tuple(events))


def parts_of_item(its: ItemRow, group: GroupRow, strand: StrandRow | None) -> dict[Part, Any]:
    """The facts that every decision about an item has."""
    return {
        Part.GROUP: group,
        Part.ITEM: its,
        Part.STRANDS: {} if strand is None else {strand.strand: strand},
        Part.SAVED: {} if its.saved_schema is None else {its.stage: its.delta is None},
        Part.KEYS: (),  # a stage with items has none
    }
