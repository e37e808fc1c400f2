"""Checking the histories of runs, and the rows that they vouch for.

The codes of events are HMACs (RFC 2104) whose key is not in the database. Whoever can write to the database and does
not have the key cannot make a chain that verifies, nor an event that says what a changed row holds. Putting a whole run
back to an earlier state, or deleting it with all its rows, shows only against heads that were exported before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, select, union

from stageflow_durable.model.plan import Plan
from stageflow_durable.state.audit import old_tombstone_code, seal
from stageflow_durable.state.idempotency_keys import idempotency_keys
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    checkpoints,
    definitions,
    events,
    runs,
    saga_steps,
    signals,
    strands,
    tombstones,
)
from stageflow_durable.state.testimony import Keys, Row, Rows, Testimony, problems
from stageflow_durable.state.vouched import tombstone_code
from stageflow_durable.transitions.accept import GENESIS

T = TypeVar("T")
See = Callable[[Callable[[Connection], T]], T]

BATCH = 500
"""Runs whose heads are read at once."""

RUNS = 50
"""Runs that are checked at once: as many as are held in memory, with all their rows."""

_HEADS = select(runs.c.id, runs.c.seq, runs.c.head).order_by(runs.c.id).limit(BATCH)
_PARTS = (events, attempts, checkpoints, saga_steps, strands, signals, approvals)
_ORDERED = {table: select(table).order_by(*table.primary_key.columns) for table in _PARTS}


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found of one run: how many events it has, and each thing that is wrong. ``rows``: whether its events
    vouch for its rows; those that an earlier release wrote, or that were written without an audit key, do not.
    """

    run_id: str
    events: int
    problems: tuple[str, ...] = ()
    rows: bool = True


class _Page(NamedTuple):
    """Runs that were checked together, and the id of the last; ``""``: there are no more."""

    checked: list[Checked]
    last: str


def heads(see: See[Any]) -> Iterator[tuple[str, int, str]]:
    """Of each run, in the order of ids: its id, the number of its last event, and that one's code."""
    last = ""
    while batch := see(partial(_batch, after=last)):
        yield from ((row.id, int(row.seq), str(row.head)) for row in batch)
        last = batch[-1].id


def _batch(connection: Connection, after: str) -> Sequence[Any]:
    return connection.execute(_HEADS.where(runs.c.id > after)).all()


def verify(
    see: See[Any], keys: Keys, run_ids: Sequence[str] | None, exported: Mapping[str, tuple[int, str]]
) -> Iterator[Checked]:
    """Check runs, page by page; ``exported``: heads from before, by run, that must still be in the chains. A code
    may be by any of ``keys``: a run that went on while the key changed has some of each.
    """
    checker = _Checker(keys, exported)
    if run_ids is not None:
        for start in range(0, len(run_ids), RUNS):
            yield from see(partial(checker.named, ids=run_ids[start : start + RUNS]))
        return
    gone, last, more = set(exported), "", True
    while more:
        page: _Page = see(partial(checker.page, after=last))
        gone.difference_update(checked.run_id for checked in page.checked)
        yield from page.checked
        last, more = page.last, bool(page.last)
    yield from _tombs(see, keys)
    for run in sorted(gone):
        yield see(partial(_gone, keys=keys, run=run, exported=exported[run]))


class _Checker:
    """Checks runs against ``exported`` heads; each page sees one moment of the database, whoever writes meanwhile."""

    def __init__(self, keys: Keys, exported: Mapping[str, tuple[int, str]]) -> None:
        self._keys = keys
        self._exported = exported

    def page(self, connection: Connection, after: str) -> _Page:
        """The next runs, in the order of ids, with whatever rows there are between them that belong to no run."""
        snapshot = _snapshot(connection)
        ids = list(snapshot.execute(_next_ids(after)).scalars())
        within = partial(_between, after=after, last=ids[-1] if ids else None)
        return _Page(self._check(snapshot, within, dict.fromkeys(ids)), ids[-1] if ids else "")

    def named(self, connection: Connection, ids: Sequence[str]) -> list[Checked]:
        """These runs."""
        return self._check(_snapshot(connection), lambda column: column.in_(ids), dict.fromkeys(ids))

    def _check(
        self,
        connection: Connection,
        within: Callable[[ColumnElement[str]], ColumnElement[bool]],
        ids: dict[str, None],
    ) -> list[Checked]:
        found = {row["id"]: row for row in connection.execute(select(runs).where(within(runs.c.id))).mappings()}
        parts = {table: _by_run(connection, table, within) for table in _PARTS}
        keys = _keys(connection, within)
        plans = _plans(connection, {row["definition"] for row in found.values()})
        strangers = {run for part in parts.values() for run in part} - found.keys()
        stones = _stones_of(connection, [run for run in ids if run not in found])
        checked = []
        for run in (*ids, *sorted(strangers - ids.keys())):
            rows = [part.get(run, []) for part in parts.values()]
            if run in found:
                plan = plans.get(found[run]["definition"])
                checked.append(self._checked(Rows(found[run], plan, keys.get(run, []), *rows)))
            else:
                checked.append(self._missing(run, stones.get(run), rows))
        return checked

    def _missing(self, run: str, stone: Any, rows: Sequence[Sequence[Row]]) -> Checked:
        left = ", ".join(f"{len(some)} of {table.name}" for table, some in zip(_PARTS, rows, strict=True) if some)
        if left:
            return Checked(run, len(rows[0]), (f"the run's row is gone, and rows of it are left: {left}",))
        return Checked(run, 0, ("there is no such run",) if stone is None else tuple(_stone(stone, self._keys)))

    def _checked(self, seen: Rows) -> Checked:
        run = seen.run["id"]
        found = [
            *_chain(seen.events, self._keys),
            *_end(seen.events, seen.run["seq"], seen.run["head"], "the run's row"),
            *_beyond(seen.events, seen.run["seq"]),
        ]
        if run in self._exported:
            found += _end(seen.events, *self._exported[run], "the exported head")
        if seen.plan is None:
            found.append(
                "its definition is missing or was changed: its text does not have the digest that the run names"
            )
        vouched = False
        if any(self._keys) and not any(found):
            heard = Testimony.of(seen.events)
            vouched = heard.complete
            found += problems(self._keys, seen, heard)
        return Checked(run, len(seen.events), tuple(dict.fromkeys(found)), vouched)


def _snapshot(connection: Connection) -> Connection:
    """The same connection, with one view of all that it reads: what is committed in between is no fault."""
    if connection.dialect.name == "postgresql":
        return connection.execution_options(isolation_level="REPEATABLE READ")
    return connection


def _next_ids(after: str) -> Any:
    """The next ids of runs, and of events: those whose run's row is gone."""
    of_runs = select(runs.c.id).where(runs.c.id > after).order_by(runs.c.id).limit(RUNS).subquery()
    of_events = (
        select(events.c.run).where(events.c.run > after).distinct().order_by(events.c.run).limit(RUNS).subquery()
    )
    either = union(select(of_runs.c.id), select(of_events.c.run)).subquery()
    return select(either.c.id).order_by(either.c.id).limit(RUNS)


def _between(column: ColumnElement[str], after: str, last: str | None) -> ColumnElement[bool]:
    return column > after if last is None else and_(column > after, column <= last)


def _by_run(
    connection: Connection, table: Table, within: Callable[[ColumnElement[str]], ColumnElement[bool]]
) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    for row in connection.execute(_ORDERED[table].where(within(table.c.run))).mappings():
        grouped.setdefault(row["run"], []).append(row)
    return grouped


def _keys(connection: Connection, within: Callable[[ColumnElement[str]], ColumnElement[bool]]) -> dict[str, list[Row]]:
    """Business keys that were finished, by the run that did."""
    of = idempotency_keys.c
    columns = (of.owner_run, of.owner_stage, of.key, of.result, of.result_schema)
    grouped: dict[str, list[Row]] = {}
    for row in connection.execute(select(*columns).where(and_(of.state == "done", within(of.owner_run)))).mappings():
        grouped.setdefault(row["owner_run"], []).append(row)
    return grouped


def _plans(connection: Connection, digests: set[str]) -> dict[str, Plan]:
    """Stored definitions by digest, those left out whose text has another one."""
    found = connection.execute(select(definitions).where(definitions.c.digest.in_(digests))).all() if digests else ()
    return {row.digest: plan for row in found if (plan := _plan(row)) is not None}


def _plan(row: Any) -> Plan | None:
    if hashlib.sha256(row.body.encode()).hexdigest()[: len(row.digest)] != row.digest:
        return None
    plan = Plan.decode(row.body)
    return plan if (plan.pipeline, plan.version) == (row.pipeline, row.version) else None


# --- pruned runs ------------------------------------------------------------------------------------------------------


def _tombs(see: See[Any], keys: Keys) -> Iterator[Checked]:
    """What is left of pruned runs has to be what ``prune`` left."""
    last = ""
    while batch := see(partial(_stones, after=last)):
        yield from (Checked(row.run, 0, found) for row in batch if (found := tuple(_stone(row, keys))))
        last = batch[-1].run


def _stones(connection: Connection, after: str) -> Sequence[Any]:
    found = select(tombstones).where(tombstones.c.run > after).order_by(tombstones.c.run).limit(BATCH)
    return connection.execute(found).all()


def _stones_of(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    found = connection.execute(select(tombstones).where(tombstones.c.run.in_(ids))).all() if ids else ()
    return {row.run: row for row in found}


def _stone(row: Any, keys: Keys) -> Iterator[str]:
    # One that an earlier release laid covers less; nobody without a key can make either.
    if all(
        row.mac
        not in (
            tombstone_code(key, row._mapping),
            old_tombstone_code(key, row.run, row.status, row.seq, row.head),
        )
        for key in keys
    ):
        yield "its tombstone was changed, or not laid by prune: its code does not fit"


def _gone(connection: Connection, keys: Keys, run: str, exported: tuple[int, str]) -> Checked:
    """A run of the exported heads that is not there: pruned, with a tombstone no shorter than the head, or deleted."""
    row = _stones_of(connection, [run]).get(run)
    if row is None:
        return Checked(run, 0, ("it was there when the heads were exported, and is gone",))
    found = list(_stone(row, keys))
    if (row.seq, row.head) != exported and row.seq <= exported[0]:
        found.append(f"it was pruned with {row.seq} events, the exported head says {exported[0]}: the end was cut off")
    return Checked(run, 0, tuple(found))


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
