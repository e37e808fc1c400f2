"""What is wrong with a chain of events, as rows that were read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from stageflow_durable.store.audit import seal
from stageflow_durable.store.erasure import mark_fits
from stageflow_durable.store.testimony import Keys, Row
from stageflow_durable.transitions.accept import GENESIS
from stageflow_durable.transitions.draft import NO_ITEM

UNKNOWN_KEY = (
    "no event has a code by this key: the run was written under another one (STAGEFLOW_OLD_AUDIT_KEYS), or without "
    "one, or all of it was replaced"
)


def chain(rows: Sequence[Row], keys: Keys, beginning: str = GENESIS, item: int = NO_ITEM) -> Iterator[str]:
    """What is wrong with a chain of events. ``beginning``: the code that its first one names; ``item``: whose it is."""
    if rows and (rows[0]["seq"], rows[0]["previous"]) != (1, beginning):
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
        if row["item"] != item:
            yield f"event {row['seq']} ({row['type']}) was moved to item {row['item']}, which the run has not got"
    wrong = [row for row in rows if not _fits(row, keys, item)]
    if wrong and len(wrong) == len(rows):
        yield UNKNOWN_KEY
        return
    for row in wrong:
        yield f"event {row['seq']} ({row['type']}) was changed: its code does not fit"


def _fits(row: Row, keys: Keys, item: int) -> bool:
    said = [row[name] for name in ("run", "seq", "type", "at", "data", "previous")]
    return any(seal(key, *said, item=item).mac == row["mac"] for key in keys) or mark_fits(keys, row)


def beyond(rows: Sequence[Row], seq: int, of: str) -> Iterator[str]:
    """Whether there are events after the one that the row names as the last."""
    if rows and rows[-1]["seq"] > seq:
        yield f"{of} says {seq} events, there are {rows[-1]['seq']}: it was put back"


def end(rows: Sequence[Row], seq: int, head: str, of: str) -> Iterator[str]:
    """Whether the event that ``of`` names as the last is there, and is that one."""
    last = next((row for row in rows if row["seq"] == seq), None)
    if last is None:
        yield f"{of} says {seq} events, the last there is {rows[-1]['seq'] if rows else 0}: the end was cut off"
    elif last["mac"] != head:
        yield f"event {seq} ({last['type']}) is not the one that {of} names"
