"""Checking the histories of runs, and the rows that they vouch for: pure functions over rows that a store has read.

The codes of events are HMACs (RFC 2104) whose key is not in the store. Whoever can write to it and does not have the
key cannot make a chain that verifies, nor an event that says what a changed row holds. Putting a whole run back to an
earlier state, or deleting it with all its rows, shows only against heads that were exported before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stageflow_durable.model.plan import Plan
from stageflow_durable.store.audit import old_tombstone_code
from stageflow_durable.store.chains import beyond, chain, end
from stageflow_durable.store.erasure import ERASE, mark_fits
from stageflow_durable.store.testimony import Keys, Row, Rows, Testimony, problems
from stageflow_durable.store.values import Checked
from stageflow_durable.store.vouched import tombstone_code

Heads = Mapping[str, tuple[int, str]]
"""Heads that were exported before, by run: the number of an event, and its code."""


@dataclass(slots=True)
class OfItems:
    """What was found of a run's items. ``events``: how many there are; ``vouched``: whether they vouch for the rows."""

    problems: list[str] = field(default_factory=list)
    events: int = 0
    vouched: bool = True


def checked(keys: Keys, seen: Rows, exported: Heads, of_items: OfItems | None = None) -> Checked:
    """Check a run: its chain, its end, and its rows. A code may be by any of ``keys``: a run that went on while the key
    changed has some of each.
    """
    items = of_items or OfItems()
    run = seen.run["id"]
    found = [
        *chain(seen.events, keys),
        *end(seen.events, seen.run["seq"], seen.run["head"], "the run's row"),
        *beyond(seen.events, seen.run["seq"], "the run's row"),
    ]
    if run in exported:
        found += end(seen.events, *exported[run], "the exported head")
    found += _erased(seen, keys)
    if seen.plan is None:
        found.append("its definition is missing or was changed: its text does not have the digest that the run names")
    vouched = False
    if any(keys) and not any(found):
        heard = Testimony.of(seen.events)
        vouched = heard.complete
        found += problems(keys, seen, heard)
    found += items.problems
    return Checked(run, len(seen.events) + items.events, tuple(dict.fromkeys(found)), vouched and items.vouched)


def _erased(seen: Rows, keys: Keys) -> Iterator[str]:
    """What was wrong when its values were erased, and events that were erased though the run was not."""
    erasures = [event for event in seen.events if event["type"] == ERASE]
    for event in erasures:
        yield from (f"before its values were erased: {text}" for text in json.loads(event["data"]).get("problems", ()))
    marked = [event["seq"] for event in seen.events if mark_fits(keys, event)]
    if marked and not any(event["seq"] > marked[-1] for event in erasures):
        yield f"event {marked[-1]} was erased, and no event after it says so"


def without_row(keys: Keys, run: str, stone: Row | None, left: Mapping[str, Sequence[Row]], events: int) -> Checked:
    """Check what is left of a run whose row is not there. ``stone``: its tombstone; ``left``: its rows by table."""
    listed = ", ".join(f"{len(rows)} of {table}" for table, rows in left.items() if rows)
    if listed:
        return Checked(run, events, (f"the run's row is gone, and rows of it are left: {listed}",))
    return Checked(run, 0, ("there is no such run",) if stone is None else tuple(stone_problems(keys, stone)))


def gone(keys: Keys, run: str, stone: Row | None, exported: tuple[int, str]) -> Checked:
    """A run of the exported heads that is not there: pruned, with a tombstone no shorter than the head, or deleted."""
    if stone is None:
        return Checked(run, 0, ("it was there when the heads were exported, and is gone",))
    found = list(stone_problems(keys, stone))
    if (stone["seq"], stone["head"]) != exported and stone["seq"] <= exported[0]:
        found.append(
            f"it was pruned with {stone['seq']} events, the exported head says {exported[0]}: the end was cut off"
        )
    return Checked(run, 0, tuple(found))


def stone_problems(keys: Keys, stone: Row) -> Iterator[str]:
    """What is left of a pruned run has to be what ``prune`` left."""
    old = (stone["run"], stone["status"], stone["seq"], stone["head"])
    # One that an earlier release laid covers less; nobody without a key can make either.
    if all(stone["mac"] not in (tombstone_code(key, stone), old_tombstone_code(key, *old)) for key in keys):
        yield "its tombstone was changed, or not laid by prune: its code does not fit"


def plan_stored(digest: str, pipeline: str, version: str, body: str) -> Plan | None:
    """A stored definition; None if it is not what its digest says."""
    if hashlib.sha256(body.encode()).hexdigest()[: len(digest)] != digest:
        return None
    plan = Plan.decode(body)
    return plan if (plan.pipeline, plan.version) == (pipeline, version) else None
