"""Checking the chains of events: a changed, removed, reordered or cut-off event is found and named.

The codes are HMACs (RFC 2104) whose key is not in the database. Whoever can write to the database and does not have
the key cannot make a chain that verifies. Cutting off the newest events together with the run's own count shows only
against heads that were exported before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, select

from stageflow_durable.state.audit import GENESIS, seal, seal_tombstone
from stageflow_durable.state.tables import events, runs, tombstones

T = TypeVar("T")
See = Callable[[Callable[[Connection], T]], T]

BATCH = 500
"""Runs whose ids are read at once."""

_HEADS = select(runs.c.id, runs.c.seq, runs.c.head).order_by(runs.c.id).limit(BATCH)
_HEAD = select(runs.c.seq, runs.c.head).where(runs.c.id == bindparam("run_id"))
_EVENTS = select(events).where(events.c.run == bindparam("run_id")).order_by(events.c.seq)


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one run: how many events it has, and each thing that is wrong with them."""

    run_id: str
    events: int
    problems: tuple[str, ...] = ()


def heads(see: See[Any]) -> Iterator[tuple[str, int, str]]:
    """Of each run, in the order of ids: its id, the number of its last event, and that one's code."""
    last = ""
    while batch := see(partial(_batch, after=last)):
        yield from ((row.id, int(row.seq), str(row.head)) for row in batch)
        last = batch[-1].id


def _batch(connection: Connection, after: str) -> Sequence[Any]:
    return connection.execute(_HEADS.where(runs.c.id > after)).all()


def verify(
    see: See[Any], key: bytes, run_ids: Sequence[str] | None, exported: Mapping[str, tuple[int, str]]
) -> Iterator[Checked]:
    """Check runs one after another; ``exported``: heads from before, by run, that must still be in the chains."""
    gone = set() if run_ids is not None else set(exported)
    for run in run_ids if run_ids is not None else (run for run, _seq, _head in heads(see)):
        gone.discard(run)
        yield _looked_at(see, key, run, exported.get(run))
    if run_ids is None:
        yield from _tombs(see, key)
    for run in sorted(gone):
        yield see(partial(_gone, key=key, run=run, exported=exported[run]))


def _looked_at(see: See[Any], key: bytes, run: str, exported: tuple[int, str] | None) -> Checked:
    look = partial(_checked, key=key, run=run, exported=exported)
    checked: Checked = see(look)
    # Its row and its events are two statements: a run that was pruned between them had a head and no events.
    return see(look) if checked.problems else checked


def _tombs(see: See[Any], key: bytes) -> Iterator[Checked]:
    """What is left of pruned runs has to be what ``prune`` left."""
    last = ""
    while batch := see(partial(_stones, after=last)):
        yield from (Checked(row.run, 0, problems) for row in batch if (problems := tuple(_stone(row, key))))
        last = batch[-1].run


def _stones(connection: Connection, after: str) -> Sequence[Any]:
    found = select(tombstones).where(tombstones.c.run > after).order_by(tombstones.c.run).limit(BATCH)
    return connection.execute(found).all()


def _stone(row: Any, key: bytes) -> Iterator[str]:
    if row.mac != seal_tombstone(key, row.run, row.status, row.seq, row.head):
        yield "its tombstone was changed, or not laid by prune: its code does not fit"


def _gone(connection: Connection, key: bytes, run: str, exported: tuple[int, str]) -> Checked:
    """A run of the exported heads that is not there: pruned, with a tombstone no shorter than the head, or deleted."""
    row = connection.execute(select(tombstones).where(tombstones.c.run == run)).one_or_none()
    if row is None:
        return Checked(run, 0, ("it was there when the heads were exported, and is gone",))
    problems = list(_stone(row, key))
    if (row.seq, row.head) != exported and row.seq <= exported[0]:
        problems.append(
            f"it was pruned with {row.seq} events, the exported head says {exported[0]}: the end was cut off"
        )
    return Checked(run, 0, tuple(problems))


def _checked(connection: Connection, key: bytes, run: str, exported: tuple[int, str] | None) -> Checked:
    # The row first: what is committed in between adds events behind the head, which is no fault.
    head = connection.execute(_HEAD, {"run_id": run}).one_or_none()
    rows = connection.execute(_EVENTS, {"run_id": run}).all()
    if head is None:
        stone = connection.execute(select(tombstones).where(tombstones.c.run == run)).one_or_none()
        return Checked(run, len(rows), ("there is no such run",) if stone is None else tuple(_stone(stone, key)))
    problems = [*_chain(rows, key), *_end(rows, int(head.seq), str(head.head), "the run's row")]
    if exported is not None:
        problems += _end(rows, *exported, "the exported head")
    return Checked(run, len(rows), tuple(dict.fromkeys(problems)))


def _chain(rows: Sequence[Any], key: bytes) -> Iterator[str]:
    if rows and (rows[0].seq, rows[0].previous) != (1, GENESIS):
        yield f"event {rows[0].seq} comes first and is not the beginning: what was before it is missing"
    for before, row in pairwise(rows):
        if row.seq != before.seq + 1:
            yield f"events {before.seq + 1} to {row.seq - 1} are missing"
        elif row.previous != before.mac:
            yield f"event {row.seq} ({row.type}) does not follow event {before.seq}: one was changed, moved or replaced"
    for row in rows:
        if row.mac != seal(key, row.run, row.seq, row.type, row.at, row.data, row.previous).mac:
            yield f"event {row.seq} ({row.type}) was changed: its code does not fit"


def _end(rows: Sequence[Any], seq: int, head: str, of: str) -> Iterator[str]:
    last = next((row for row in rows if row.seq == seq), None)
    if last is None:
        yield f"{of} says {seq} events, the last there is {rows[-1].seq if rows else 0}: the end was cut off"
    elif last.mac != head:
        yield f"event {seq} ({last.type}) is not the one that {of} names"
