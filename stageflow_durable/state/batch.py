"""Creating many runs: for each thousand a statement a table. A column that is the same in all rows is one parameter,
and so is one that differs: the JSON text of its values.

A row as parameters of its own costs the caller more than it costs the database; as part of a text it costs neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Double,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    delete,
    func,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite

from stageflow_durable.errors import StageflowError
from stageflow_durable.model.plan import Plan
from stageflow_durable.state.clock import now
from stageflow_durable.state.tables import attributes, events, runs, strands, tombstones
from stageflow_durable.store.audit import EventRow
from stageflow_durable.store.carrying import Broken, held_by, is_same, other_run
from stageflow_durable.store.sealing import accepted
from stageflow_durable.store.transaction import Holder
from stageflow_durable.store.values import Answer, Created
from stageflow_durable.transitions.accept import NewRun, accept, first_nudges
from stageflow_durable.transitions.change import KEYS
from stageflow_durable.transitions.change import Table as Named

T = TypeVar("T")
Key = tuple[str, str, str]
"""Client, pipeline and key."""

Columns = Mapping[str, Sequence[Any]]
"""Rows of a table: of each column all values."""

PART = 1000
"""Runs of one statement: the database gives a statement a time, and a transaction may have many."""

_CLOCK = select(now())
_KEY = ("client_id", "pipeline", "key")
_OF_PLAN = {"pipeline": "pipeline", "version": "version", "definition": "digest", "input_schema": "schema"}


def create_many(
    connection: Connection,
    news: Sequence[NewRun],
    audit_key: bytes,
    *,
    whole: bool,
    hints: bool = False,
    part: int = PART,
) -> list[Answer]:
    """Record many runs in one go; each gets its answer: created, found by its key, or the reason why not. ``hints``:
    whether their nudges have some.

    Those that ``repeat`` and are there already, from a call whose answer was lost, are answered as if they were new:
    nobody has published them. Raises InvalidInput where another run has the id; ``whole``: Broken where one is
    refused. ``part``: runs of one statement.
    """
    at = float(connection.execute(_CLOCK).scalar_one())
    made: dict[str, str] = {}
    for some in _parts(_first_of_each_key(news), part):
        made |= _insert(connection, some, at, audit_key)
    missing = [new for new in news if new.id not in made]
    for some in _parts([new for new in missing if new.key is None], part):
        _refuse_others(connection, some)
    held: dict[Key, Holder] = {}
    for some in _parts([new for new in missing if new.key is not None], part):
        held |= _holders(connection, some)
    answers = [_answer(new, made, held, hints=hints) for new in news]
    if whole and any(isinstance(answer, StageflowError) for answer in answers):
        raise Broken(answers)
    return answers


def _parts(given: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (given[start : start + size] for start in range(0, len(given), size))


def _key(new: NewRun) -> Key | None:
    return None if new.key is None else (new.client_id, new.plan.pipeline, new.key)


def _first_of_each_key(news: Sequence[NewRun]) -> list[NewRun]:
    """In the order of their keys: two batches that share some wait for each other in one direction only."""
    keyed = {key: new for new in reversed(news) if (key := _key(new)) is not None}
    free = {new.id: new for new in news if new.key is None}
    return [*(keyed[key] for key in sorted(keyed)), *free.values()]


def _answer(new: NewRun, made: Mapping[str, str], held: Mapping[Key, Holder], *, hints: bool) -> Answer:
    key = _key(new)
    if key is None or new.id in made:
        head = made.get(new.id)
        nudges = first_nudges(new, head or "")
        if head is None or not hints:
            nudges = tuple([nudge._replace(hint=None) for nudge in nudges])
        return Created(new.id, False, nudges)
    return held_by(new, held.get(key))


def _insert(connection: Connection, news: Sequence[NewRun], at: float, audit_key: bytes) -> dict[str, str]:
    """Insert what is not there; returns the heads of what was inserted by id."""
    sealed = {new.id: accepted(new, at, audit_key) for new in news}
    told = [sealed[new.id] for new in news]
    first = accept(news[0], at)
    run = {**first.columns, "id": news[0].id, "seq": told[0].seq, "head": told[0].mac, "updated_at": at}
    may_be_there = any(new.key is not None or new.repeats for new in news)  # to look for it takes as long as an index
    added = _add(connection, runs, run, _runs(news, told), or_nothing=may_be_there)
    fresh = _fresh(connection, news, set(added.scalars().all())) if may_be_there else news
    if fresh:
        row = next(row for row in first.rows if row.table is Named.STRANDS)
        strand = {"run": news[0].id, **dict(zip(KEYS[row.table], row.key, strict=True)), **row.columns}
        _add(connection, strands, strand, _strands(fresh))
        described = [(new.id, name, value) for new in fresh for name, value in new.attributes]
        for some in _parts(described, PART):
            rows = dict(zip(("run", "name", "value"), zip(*some, strict=True), strict=True))
            _add(connection, attributes, {name: values[0] for name, values in rows.items()}, rows)
        told = [sealed[new.id] for new in fresh]
        _add(connection, events, told[0]._asdict(), _columns(told))
    return {new.id: sealed[new.id].mac for new in fresh}


def _fresh(connection: Connection, news: Sequence[NewRun], made: set[str]) -> Sequence[NewRun]:
    made -= _unburied(connection, [new for new in news if new.key is not None and new.id in made])
    return [new for new in news if new.id in made]


def _columns(rows: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """Of named tuples."""
    return dict(zip(rows[0]._fields, zip(*rows, strict=True), strict=True))


def _runs(news: Sequence[NewRun], told: Sequence[EventRow]) -> Columns:
    columns = _columns(news)
    plans: Sequence[Plan] = columns.pop("plan")
    del columns["repeats"], columns["attributes"], columns["actor"]
    columns |= {name: [getattr(plan, of) for plan in plans] for name, of in _OF_PLAN.items()}
    return columns | {"head": [event.mac for event in told]}


def _strands(news: Sequence[NewRun]) -> Columns:
    begun = [(new.id, root, root, new.plan.by_name[root].queue or new.queue) for new in news for root in new.plan.roots]
    return dict(zip(("run", "strand", "stage", "queue"), zip(*begun, strict=True), strict=True))


def _add(
    connection: Connection, table: Table, first: Mapping[str, Any], columns: Columns, *, or_nothing: bool = False
) -> Any:
    """Insert rows: the first one, and of all of them those columns in which the others may be unlike it.
    ``or_nothing``: those that are there already are passed over; returns the ids of the others.
    """
    apart, given = _parameters(connection, columns)
    given |= {name: value for name, value in first.items() if name not in columns}
    statement = _insertion(connection.dialect.name == "sqlite", table, tuple(first), apart, or_nothing)
    return connection.execute(statement, given)


def _parameters(connection: Connection, columns: Columns) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The columns that differ, and the parameters: of each its values, of each other its one value. SQLite gets rows,
    for it cannot go along several lists at once.
    """
    apart = tuple(name for name, values in columns.items() if values.count(values[0]) < len(values))
    given = {name: values[0] for name, values in columns.items() if name not in apart}
    if connection.dialect.name == "sqlite":
        return apart, given | {"rows": _text(list(zip(*(columns[name] for name in apart), strict=True)))}
    return apart, given | {name: _text(columns[name]) for name in apart}


def _text(values: Sequence[Any]) -> str:
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))


def _unburied(connection: Connection, made: Sequence[NewRun]) -> set[str]:
    """Take back runs whose keys tombstones hold. Looked up after the insertion: while it waited for a deletion of the
    same key, the tombstone came.
    """
    buried = _by_key(connection, made, tombstones) if made else {}
    gone = {new.id for new in made if _key(new) in buried}
    if gone:
        connection.execute(delete(runs).where(runs.c.id.in_(gone)))
    return gone


def _holders(connection: Connection, missing: Sequence[NewRun]) -> dict[Key, Holder]:
    found = _by_key(connection, missing, runs)
    rest = [new for new in missing if _key(new) not in found]
    return found | (_by_key(connection, rest, tombstones) if rest else {})


def _by_key(connection: Connection, news: Sequence[NewRun], table: Table) -> dict[Key, Holder]:
    named = [(new.client_id, new.plan.pipeline, new.key) for new in news]
    apart, given = _parameters(connection, dict(zip(_KEY, zip(*named, strict=True), strict=True)))
    found = connection.execute(_holding(connection.dialect.name == "sqlite", table, apart), given).all()
    return {(row[0], row[1], row[2]): Holder(*row[3:]) for row in found}


def _refuse_others(connection: Connection, repeated: Sequence[NewRun]) -> None:
    """Of runs whose ids are taken, each has to be the one that has its id."""
    named = select(runs.c.id, runs.c.client_id, runs.c.pipeline, runs.c.fingerprint)
    found = connection.execute(named.where(runs.c.id.in_([new.id for new in repeated]))).all()
    there = {row.id: row for row in found}
    other = [new.id for new in repeated if new.id not in there or not is_same(new, there[new.id])]
    if other:
        raise other_run(other[0])


# --- statements -------------------------------------------------------------------------------------------------------


def _values(is_sqlite: bool, table: Table, names: Sequence[str], apart: Sequence[str]) -> dict[str, Any]:
    """Columns of the rows in the parameters, with the types of ``table``'s; ``apart``: those that differ."""
    kinds = {name: _plain(table.c[name].type) for name in names}
    same = {name: bindparam(name, type_=kinds[name]) for name in names if name not in apart}
    return same | (_apart_on_sqlite(apart) if is_sqlite else _apart_on_postgresql(apart, kinds))


def _apart_on_sqlite(names: Sequence[str]) -> dict[str, Any]:
    each = func.json_each(bindparam("rows", type_=Text)).table_valued("value")
    return {name: func.json_extract(each.c.value, f"$[{place}]") for place, name in enumerate(names)}


def _apart_on_postgresql(names: Sequence[str], kinds: Mapping[str, Any]) -> dict[str, Any]:
    lists = [func.json_array_elements_text(cast(bindparam(name, type_=Text), JSON)).label(name) for name in names]
    given = select(*lists).subquery("given")  # functions in a SELECT go along their lists together
    return {name: cast(given.c[name], kinds[name]) for name in names}


def _plain(kind: Any) -> Any:
    """A type without its length: what is too long is refused by the table, not cut off on the way."""
    return kind if isinstance(kind, Integer | Double | Boolean) else Text()


@lru_cache(maxsize=64)
def _insertion(is_sqlite: bool, table: Table, names: tuple[str, ...], apart: tuple[str, ...], or_nothing: bool) -> Any:
    values = _values(is_sqlite, table, names, apart)
    order = [values[name] if is_sqlite else values[name].collate("C") for name in _KEY if name in apart]
    picked = select(*values.values()).where(true()).order_by(*order)  # as Python sorts: over all parts it is one order
    inserted = (sqlite if is_sqlite else postgresql).insert(table).from_select(list(values), picked)
    return inserted.on_conflict_do_nothing().returning(table.c.id) if or_nothing else inserted


@lru_cache(maxsize=64)
def _holding(is_sqlite: bool, table: Table, apart: tuple[str, ...]) -> Any:
    values = _values(is_sqlite, table, _KEY, apart)
    holder = ["run", "fingerprint"] if table is tombstones else ["id", "fingerprint", "input"]
    same = and_(*(table.c[name] == values[name] for name in _KEY))
    return select(*(table.c[name] for name in (*_KEY, *holder))).where(same)
