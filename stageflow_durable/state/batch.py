"""Creating many runs: for each thousand a statement a table, whose rows are one JSON parameter.

A row as parameters of its own costs the caller more than it costs the database; as text of a list it costs neither.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import (
    JSON,
    Connection,
    Double,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    literal,
    select,
    true,
)
from sqlalchemy.dialects import postgresql, sqlite

from stageflow_durable.codec import decode, differing_fields
from stageflow_durable.errors import IdempotencyParamMismatch, InvalidInput, RunBusy, StageflowError
from stageflow_durable.model.status import Phase, RunStatus, StrandState
from stageflow_durable.state.audit import GENESIS
from stageflow_durable.state.clock import now
from stageflow_durable.state.fast import GIVEN
from stageflow_durable.state.runs import Created, NewRun, accepted, first_nudges, queue_of
from stageflow_durable.state.tables import events, runs, strands, tombstones

Answer = Created | StageflowError
Key = tuple[str, str, str]
"""Client, pipeline and key."""

PART = 1000
"""Runs of one statement: the database gives a statement a time, and a transaction may have many."""

_CLOCK = select(now())
_GIVEN = ("id", *GIVEN, "head")
_AT = bindparam("at", type_=Double)  # apart: SQLite reads a number in JSON to the last but one digit only


@dataclass(frozen=True, slots=True)
class _Held:
    """Who has a key: a run, or the tombstone of one (then without ``input``)."""

    run_id: str
    fingerprint: str
    input: str | None = None


class Broken(Exception):
    """One of a batch was refused: nothing of it is recorded."""

    def __init__(self, answers: list[Answer]) -> None:
        super().__init__()
        self.answers = answers


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

    Those without keys that are there already, from a call whose answer was lost, are answered as if they were new:
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
    held: dict[Key, _Held] = {}
    for some in _parts([new for new in missing if new.key is not None], part):
        held |= _holders(connection, some)
    answers = [_answer(new, made, held, hints=hints) for new in news]
    if whole and any(isinstance(answer, StageflowError) for answer in answers):
        raise Broken(answers)
    return answers


def _parts(news: Sequence[NewRun], size: int) -> Iterator[Sequence[NewRun]]:
    return (news[start : start + size] for start in range(0, len(news), size))


def _key(new: NewRun) -> Key | None:
    return None if new.key is None else (new.client_id, new.plan.pipeline, new.key)


def _first_of_each_key(news: Sequence[NewRun]) -> list[NewRun]:
    """In the order of their keys: two batches that share some wait for each other in one direction only."""
    keyed = {key: new for new in reversed(news) if (key := _key(new)) is not None}
    free = {new.id: new for new in news if new.key is None}
    return [*(keyed[key] for key in sorted(keyed)), *free.values()]


def _answer(new: NewRun, made: Mapping[str, str], held: Mapping[Key, _Held], *, hints: bool) -> Answer:
    key = _key(new)
    if key is None or new.id in made:
        return Created(new.id, False, first_nudges(new, made.get(new.id) if hints else None))
    holder = held.get(key)
    if holder is None:
        return RunBusy(f"the run of key {new.key!r} is just being pruned; enqueue again")
    if holder.fingerprint == new.fingerprint:
        return Created(holder.run_id, True)
    # What differs from a run that was pruned cannot be told any more.
    fields = () if holder.input is None else differing_fields(decode(holder.input), decode(new.input))
    return IdempotencyParamMismatch(str(new.key), fields, run_id=holder.run_id)


def _insert(connection: Connection, news: Sequence[NewRun], at: float, audit_key: bytes) -> dict[str, str]:
    """Insert what is not there; returns the heads of what was inserted by id."""
    is_sqlite = connection.dialect.name == "sqlite"
    sealed = {new.id: accepted(new, at, audit_key) for new in news}
    rows = [_row(new, sealed[new.id].mac) for new in news]
    made = set(connection.execute(_insert_runs(is_sqlite), {"rows": _text(rows), "at": at}).scalars())
    made -= _unburied(connection, [new for new in news if new.key is not None and new.id in made])
    if not made:
        return {}
    fresh = [new for new in news if new.id in made]
    begun = [{"run": new.id, "strand": root, "queue": queue_of(new, root)} for new in fresh for root in new.plan.roots]
    connection.execute(_insert_strands(is_sqlite), {"rows": _text(begun), "at": at})
    told = [{"run": new.id, "data": sealed[new.id].data, "mac": sealed[new.id].mac} for new in fresh]
    connection.execute(_insert_events(is_sqlite), {"rows": _text(told), "at": at})
    return {run: sealed[run].mac for run in made}


def _row(new: NewRun, head: str) -> dict[str, Any]:
    plan = new.plan
    given = (new.id, new.client_id, plan.pipeline, plan.version, new.key, new.fingerprint, plan.digest, new.input)
    rest = (plan.schema, new.metadata, new.queue, new.priority, new.deadline, head)
    return dict(zip(_GIVEN, (*given, *rest), strict=True))


def _text(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False, separators=(",", ":"))


def _unburied(connection: Connection, made: Sequence[NewRun]) -> set[str]:
    """Take back runs whose keys tombstones hold. Looked up after the insertion: while it waited for a deletion of the
    same key, the tombstone came.
    """
    buried = _by_key(connection, made, tombstones) if made else {}
    gone = {new.id for new in made if _key(new) in buried}
    if gone:
        connection.execute(delete(runs).where(runs.c.id.in_(gone)))
    return gone


def _holders(connection: Connection, missing: Sequence[NewRun]) -> dict[Key, _Held]:
    found = _by_key(connection, missing, runs)
    rest = [new for new in missing if _key(new) not in found]
    return found | (_by_key(connection, rest, tombstones) if rest else {})


def _by_key(connection: Connection, news: Sequence[NewRun], table: Table) -> dict[Key, _Held]:
    named = [{"client_id": new.client_id, "pipeline": new.plan.pipeline, "key": new.key} for new in news]
    statement = _holding(connection.dialect.name == "sqlite", table)
    return {(row[0], row[1], row[2]): _Held(*row[3:]) for row in connection.execute(statement, {"rows": _text(named)})}


def _refuse_others(connection: Connection, repeated: Sequence[NewRun]) -> None:
    """Of runs whose ids are taken, each has to be the one that has its id."""
    named = select(runs.c.id, runs.c.client_id, runs.c.pipeline, runs.c.fingerprint)
    found = connection.execute(named.where(runs.c.id.in_([new.id for new in repeated]))).all()
    there = {(row.id, row.client_id, row.pipeline, row.fingerprint) for row in found}
    other = [new.id for new in repeated if (new.id, new.client_id, new.plan.pipeline, new.fingerprint) not in there]
    if other:
        raise InvalidInput("enqueue", [f"run_id: {other[0]} is another run; leave it out, or make a new one"])


# --- statements -------------------------------------------------------------------------------------------------------


def _rows_of(table: Table, names: Iterable[str], *, is_sqlite: bool) -> dict[str, Any]:
    """Columns of the rows in the parameter, with the types of ``table``'s."""
    rows = bindparam("rows", type_=Text)
    if is_sqlite:
        each = func.json_each(rows).table_valued("value")
        return {name: func.json_extract(each.c.value, f"$.{name}") for name in names}
    typed = [column(name, _plain(table.c[name].type)) for name in names]
    given = func.json_to_recordset(cast(rows, JSON)).table_valued(*typed, name="given").render_derived(with_types=True)
    return {name: given.c[name] for name in names}


def _plain(kind: Any) -> Any:
    """A type without its length: what is too long is refused by the table, not cut off on the way."""
    return kind if isinstance(kind, Integer | Double) else Text()


@lru_cache(maxsize=2)
def _insert_runs(is_sqlite: bool) -> Any:
    rows = _rows_of(runs, _GIVEN, is_sqlite=is_sqlite)
    fixed = {"phase": Phase.FORWARD, "status": RunStatus.PENDING}
    values = rows | {name: literal(str(value)) for name, value in fixed.items()}
    values |= {"seq": literal(1), "created_at": _AT, "updated_at": _AT}
    order = [rows[name] if is_sqlite else rows[name].collate("C") for name in ("client_id", "pipeline", "key")]
    picked = select(*values.values()).where(true()).order_by(*order)  # as Python sorts: over all parts it is one order
    inserted = (sqlite if is_sqlite else postgresql).insert(runs).from_select(list(values), picked)
    return inserted.on_conflict_do_nothing().returning(runs.c.id)


@lru_cache(maxsize=2)
def _insert_strands(is_sqlite: bool) -> Any:
    rows = _rows_of(strands, ("run", "strand", "queue"), is_sqlite=is_sqlite)
    fixed = {"direction": literal(str(Phase.FORWARD)), "state": literal(str(StrandState.READY)), "published_at": _AT}
    values = rows | {"stage": rows["strand"]} | fixed
    return insert(strands).from_select(list(values), select(*values.values()))


@lru_cache(maxsize=2)
def _insert_events(is_sqlite: bool) -> Any:
    rows = _rows_of(events, ("run", "data", "mac"), is_sqlite=is_sqlite)
    values = rows | {"seq": literal(1), "type": literal("run.accepted"), "at": _AT, "previous": literal(GENESIS)}
    return insert(events).from_select(list(values), select(*values.values()))


@lru_cache(maxsize=4)
def _holding(is_sqlite: bool, table: Table) -> Any:
    keys = ("client_id", "pipeline", "key")
    rows = _rows_of(table, keys, is_sqlite=is_sqlite)
    whose = [table.c[name] for name in keys]
    holder = ["run", "fingerprint"] if table is tombstones else ["id", "fingerprint", "input"]
    same = and_(*(table.c[name] == rows[name] for name in keys))
    return select(*whose, *(table.c[name] for name in holder)).where(same)
