"""Reading what ``store.verification`` checks: the histories of runs, and the rows that they vouch for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import ColumnElement, Connection, Table, and_, or_, select, union

from stageflow_durable.model.plan import Plan
from stageflow_durable.state import verified_items
from stageflow_durable.state.idempotency_keys import idempotency_keys
from stageflow_durable.state.tables import (
    approvals,
    attempts,
    calls,
    checkpoints,
    definitions,
    events,
    links,
    runs,
    saga_steps,
    signals,
    strands,
    tombstones,
)
from stageflow_durable.store import verification
from stageflow_durable.store.testimony import Keys, Row, Rows
from stageflow_durable.store.values import Checked
from stageflow_durable.transitions.draft import NO_ITEM

T = TypeVar("T")
See = Callable[[Callable[[Connection], T]], T]

BATCH = 500
"""Runs whose heads are read at once."""

RUNS = 50
"""Runs that are checked at once: as many as are held in memory, with all their rows."""

_HEADS = select(runs.c.id, runs.c.seq, runs.c.head).order_by(runs.c.id).limit(BATCH)
_PARTS = (events, attempts, checkpoints, saga_steps, strands, calls, signals, approvals, links)
_ORDERED = {table: select(table).order_by(*table.primary_key.columns) for table in _PARTS}


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
    checker = Checker(keys, exported)
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


class Checker:
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
        return self.of(_snapshot(connection), ids)

    def of(self, connection: Connection, ids: Sequence[str]) -> list[Checked]:
        """The same within a transaction, which sees one moment by itself if it holds their locks."""
        return self._check(connection, lambda column: column.in_(ids), dict.fromkeys(ids))

    def _check(
        self,
        connection: Connection,
        within: Callable[[ColumnElement[str]], ColumnElement[bool]],
        ids: dict[str, None],
    ) -> list[Checked]:
        found = {row["id"]: row for row in connection.execute(select(runs).where(within(runs.c.id))).mappings()}
        with_items = [run for run, row in found.items() if row["item_count"]]
        # Of runs with items those are read apart, some at a time.
        parts = {table: _by_run(connection, table, within, with_items) for table in _PARTS}
        keys = _keys(connection, within)
        plans = _plans(connection, {row["definition"] for row in found.values()})
        strangers = {run for part in parts.values() for run in part} - found.keys()
        stones = _stones_of(connection, [run for run in ids if run not in found])
        checked = []
        for run in (*ids, *sorted(strangers - ids.keys())):
            rows = {table.name: part.get(run, []) for table, part in parts.items()}
            if run in found:
                plan, given = plans.get(found[run]["definition"]), dict[str, str]()
                if found[run]["item_count"]:
                    given = verified_items.inputs(connection, run)
                done = keys.get(run, [])
                seen = Rows(found[run], plan, done, *rows.values(), given)  # type: ignore[call-arg, arg-type]  # in the order of _PARTS
                of_items = verified_items.check(connection, seen, self._keys)
                checked.append(verification.checked(self._keys, seen, self._exported, of_items))
            else:
                count = len(rows[events.name])
                checked.append(verification.without_row(self._keys, run, stones.get(run), rows, count))
        return checked


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
    connection: Connection,
    table: Table,
    within: Callable[[ColumnElement[str]], ColumnElement[bool]],
    with_items: Sequence[str],
) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = {}
    these = within(table.c.run)
    if "item" in table.c:
        these = and_(these, or_(table.c.item == NO_ITEM, table.c.run.not_in(with_items)))
    for row in connection.execute(_ORDERED[table].where(these)).mappings():
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
    wanted = select(*(definitions.c[name] for name in ("digest", "pipeline", "version", "body")))
    rows = connection.execute(wanted.where(definitions.c.digest.in_(digests))).all() if digests else ()
    plans = {row.digest: verification.plan_stored(*row) for row in rows}
    return {digest: plan for digest, plan in plans.items() if plan is not None}


# --- pruned runs ------------------------------------------------------------------------------------------------------


def _tombs(see: See[Any], keys: Keys) -> Iterator[Checked]:
    """What is left of pruned runs has to be what ``prune`` left."""
    last = ""
    while batch := see(partial(_stones, after=last)):
        yield from (
            Checked(row["run"], 0, found) for row in batch if (found := tuple(verification.stone_problems(keys, row)))
        )
        last = batch[-1]["run"]


def _stones(connection: Connection, after: str) -> Sequence[Any]:
    found = select(tombstones).where(tombstones.c.run > after).order_by(tombstones.c.run).limit(BATCH)
    return list(connection.execute(found).mappings())


def _stones_of(connection: Connection, ids: Sequence[str]) -> dict[str, Any]:
    found = connection.execute(select(tombstones).where(tombstones.c.run.in_(ids))).mappings() if ids else ()
    return {row["run"]: row for row in found}


def _gone(connection: Connection, keys: Keys, run: str, exported: tuple[int, str]) -> Checked:
    return verification.gone(keys, run, _stones_of(connection, [run]).get(run), exported)
