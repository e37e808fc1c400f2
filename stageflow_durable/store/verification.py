"""Checking the histories of runs, and the rows that they vouch for: pure functions over rows that a store has read.

The codes of events are HMACs (RFC 2104) whose key is not in the store. Whoever can write to it and does not have the
key cannot make a chain that verifies, nor an event that says what a changed row holds. Putting a whole run back to an
earlier state, or deleting it with all its rows, shows only against heads that were exported before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from stageflow_durable.model.plan import Plan
from stageflow_durable.store.audit import old_tombstone_code, seal
from stageflow_durable.store.testimony import Keys, Row, Rows, Testimony, problems
from stageflow_durable.store.values import Checked
from stageflow_durable.store.vouched import tombstone_code
from stageflow_durable.transitions.accept import GENESIS

Heads = Mapping[str, tuple[int, str]]
"""Heads that were exported before, by run: the number of an event, and its code."""


def checked(keys: Keys, seen: Rows, exported: Heads) -> Checked:
    """Check a run: its chain, its end, and its rows. A code may be by any of ``keys``: a run that went on while the key
    changed has some of each.
    """
    run = seen.run["id"]
    found = [
        *_chain(seen.events, keys),
        *_end(seen.events, seen.run["seq"], seen.run["head"], "the run's row"),
        *_beyond(seen.events, seen.run["seq"]),
    ]
    if run in exported:
        found += _end(seen.events, *exported[run], "the exported head")
    if seen.plan is None:
        found.append("its definition is missing or was changed: its text does not have the digest that the run names")
    vouched = False
    if any(keys) and not any(found):
        heard = Testimony.of(seen.events)
        vouched = heard.complete
        found += problems(keys, seen, heard)
    return Checked(run, len(seen.events), tuple(dict.fromkeys(found)), vouched)


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


# --- the chain --------------------------------------------------------------------------------------------------------


def _chain(rows: Sequence[Row], keys: Keys) -> Iterator[str]:
    if rows and (rows[0]["seq"], rows[0]["previous"]) != (1, GENESIS):
        yield f"event {rows[0]['seq']} comes first and is not the beginning: what was before it is missing"
    for before, row in pairwise(rows):
        if row["seq"] != before["seq"] + 1:
            yield f"events {before['seq'] + 1} to {row['seq'] - 1} are missing"
        elif row["previous"] != before["mac"]:
            yield (
                f"event {row['seq']} ({row['type']}) does not follow event {before['seq']}: "
                "one was changed, moved or replaced"
            )
    for row in rows:
        if row["item"]:
            yield f"event {row['seq']} ({row['type']}) was moved to item {row['item']}, which the run has not got"
    wrong = [row for row in rows if not _fits(row, keys)]
    if wrong and len(wrong) == len(rows):
        yield (
            "no event has a code by this key: the run was written under another one (STAGEFLOW_OLD_AUDIT_KEYS), or "
            "without one, or all of it was replaced"
        )
        return
    for row in wrong:
        yield f"event {row['seq']} ({row['type']}) was changed: its code does not fit"


def _fits(row: Row, keys: Keys) -> bool:
    said = [row[name] for name in ("run", "seq", "type", "at", "data", "previous")]
    return any(seal(key, *said).mac == row["mac"] for key in keys)


def _beyond(rows: Sequence[Row], seq: int) -> Iterator[str]:
    if rows and rows[-1]["seq"] > seq:
        yield f"the run's row says {seq} events, there are {rows[-1]['seq']}: it was put back"


def _end(rows: Sequence[Row], seq: int, head: str, of: str) -> Iterator[str]:
    last = next((row for row in rows if row["seq"] == seq), None)
    if last is None:
        yield f"{of} says {seq} events, the last there is {rows[-1]['seq'] if rows else 0}: the end was cut off"
    elif last["mac"] != head:
        yield f"event {seq} ({last['type']}) is not the one that {of} names"
