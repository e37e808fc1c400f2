"""The statements of those who await runs: say whom to tell, look which are at rest; and PostgreSQL's way of telling.

What is told says only where to look, and may be lost: after a crash of the database, or of whoever was about to tell.
So nothing here waits for the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from sqlalchemy import String, Text, and_, bindparam, case, cast, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSON

from stageflow_durable.model.awaited import ENTRY_LENGTH, MOST
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import RunFacts
from stageflow_durable.state import known
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.postgres_protocol import Rows
from stageflow_durable.state.tables import runs
from stageflow_durable.store.values import AtRest, Stand

CHANNEL = "stageflow_awaited_"
"""What PostgreSQL's channels begin with; the listener's token follows."""

_ID: Any = bindparam("run_id", type_=String)
_IDS: Any = bindparam("ids", type_=Text)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunFacts._fields)
_OUTER_ID: Any = literal_column(f"{runs.name}.id")  # SQLAlchemy would add the table once more
_GOING = runs.c.phase != constant(Phase.SETTLED)


def _among(is_sqlite: bool, alone: bool) -> Any:
    """The runs of a statement: one, which a database finds at once, or those of a list."""
    if alone:
        return runs.c.id == _ID
    if is_sqlite:
        return runs.c.id.in_(select(func.json_each(_IDS).table_valued("value").c.value))
    return runs.c.id.in_(select(func.json_array_elements_text(cast(_IDS, JSON))))


def _rows(driver: Driver, statement: Callable[..., Statement], run_ids: Sequence[str], **given: str) -> Rows:
    alone = len(run_ids) == 1
    which = {"run_id": run_ids[0]} if alone else {"ids": json.dumps([*run_ids])}
    return driver.rows(statement(driver.is_sqlite, alone), {**which, **given})


@lru_cache(maxsize=8)
def _note(is_sqlite: bool, alone: bool, *, follows: bool) -> Statement:
    entry: Any = bindparam("entry", type_=Text)
    there = runs.c.awaited_by
    longest = MOST * (ENTRY_LENGTH + 1) - 1
    known = func.instr(there, entry) > 0 if is_sqlite else func.strpos(there, entry) > 0
    added = func.substr(entry + literal(" ") + there, 1, longest)
    listed = case((there.is_(None), entry), (known, there), else_=added)
    which = _among(is_sqlite, alone) if follows else and_(_among(is_sqlite, alone), _GOING)
    noted: Any = update(runs).values(awaited_by=listed)
    answered: list[Any] = [runs.c.id, runs.c.seq]
    if not is_sqlite:
        answered.append(func.set_config("synchronous_commit", "off", literal_column("true")))
    if is_sqlite or alone:
        return Statement(noted.where(which).returning(*answered), is_sqlite=is_sqlite)
    # In the order of their ids: of two processes that await the same runs neither waits for the other.
    locked = select(runs.c.id).where(which).order_by(runs.c.id).with_for_update(key_share=True).cte("locked")
    return Statement(noted.where(runs.c.id == locked.c.id).returning(*answered), is_sqlite=False)


def note(driver: Driver, run_ids: Sequence[str], entry: str) -> dict[str, int]:
    """Note who is to be told of these runs; returns the number of each that was noted: of the end, those that are not
    at rest; of every change, all that are there.

    It writes to the runs' rows, so that a change is either told of, or was committed before this.
    """
    statement = partial(_note, follows=entry[0].isupper())
    return {row[0]: row[1] for row in _rows(driver, statement, run_ids, entry=entry)}


@lru_cache(maxsize=4)
def _stands(is_sqlite: bool, alone: bool) -> Statement:
    found = select(runs.c.id, runs.c.seq, runs.c.phase).where(_among(is_sqlite, alone))
    return Statement(found, is_sqlite=is_sqlite)


def stand(driver: Driver, run_ids: Sequence[str]) -> dict[str, Stand]:
    """How these runs stand; those that are not there are left out."""
    return {row[0]: Stand(row[1], row[2] == Phase.SETTLED) for row in _rows(driver, _stands, run_ids)}


@lru_cache(maxsize=4)
def _at_rest(is_sqlite: bool, alone: bool) -> Statement:
    saved = known.saved_of(_OUTER_ID, is_sqlite=is_sqlite)
    found = select(*_RUN_COLUMNS, saved).where(and_(_among(is_sqlite, alone), ~_GOING))
    return Statement(found, is_sqlite=is_sqlite)


def at_rest(driver: Driver, run_ids: Sequence[str]) -> list[AtRest]:
    """Those of the runs that are at rest, with what they saved as far as one question tells it."""
    rows = _rows(driver, _at_rest, run_ids)
    return [AtRest(facts_of_values(row[:-1]), known.read_saved(row[-1])) for row in rows]


@lru_cache(maxsize=1)
def _notify() -> Statement:
    channel, text = bindparam("channel", type_=Text), bindparam("text", type_=Text)
    lazily = func.set_config("synchronous_commit", "off", literal_column("true"))
    return Statement(select(lazily, func.pg_notify(channel, text)), is_sqlite=False)


def notify(driver: Driver, token: str, text: str) -> None:
    """Tell a listener on PostgreSQL, in a transaction of its own: one that notifies holds a lock of the whole server
    while it commits.
    """
    driver.rows(_notify(), {"channel": CHANNEL + token, "text": text})
