"""The statements of those who await runs: say whom to tell, look which are at rest; and PostgreSQL's way of telling.

What is told says only where to look, and may be lost: after a crash of the database, or of whoever was about to tell.
So nothing here waits for the disk.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Text, and_, bindparam, case, cast, func, literal, literal_column, select, update
from sqlalchemy.dialects.postgresql import JSON

from stageflow_durable.model.awaited import ENTRY_LENGTH, MOST
from stageflow_durable.model.status import Phase
from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.state import unlocked_reads
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.driver import Driver, Statement
from stageflow_durable.state.load import facts_of_values
from stageflow_durable.state.tables import runs

CHANNEL = "stageflow_awaited_"
"""What PostgreSQL's channels begin with; the listener's token follows."""

_IDS: Any = bindparam("ids", type_=Text)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunFacts._fields)
_ID: Any = literal_column(f"{runs.name}.id")  # of the statement around: SQLAlchemy would add the table once more
_GOING = runs.c.phase != constant(Phase.SETTLED)


class AtRest(NamedTuple):
    """A run that is at rest. ``saved``: the outputs of its stages by name, or None: read them."""

    run: RunFacts
    saved: dict[str, Saved] | None


class Stand(NamedTuple):
    """A run's number, and whether it is at rest."""

    seq: int
    at_rest: bool


def _among(is_sqlite: bool) -> Any:
    if is_sqlite:
        return runs.c.id.in_(select(func.json_each(_IDS).table_valued("value").c.value))
    return runs.c.id.in_(select(func.json_array_elements_text(cast(_IDS, JSON))))


@lru_cache(maxsize=4)
def _note(is_sqlite: bool, follows: bool) -> Statement:
    entry: Any = bindparam("entry", type_=Text)
    there = runs.c.awaited_by
    longest = MOST * (ENTRY_LENGTH + 1) - 1
    known = func.instr(there, entry) > 0 if is_sqlite else func.strpos(there, entry) > 0
    added = func.substr(entry + literal(" ") + there, 1, longest)
    listed = case((there.is_(None), entry), (known, there), else_=added)
    which = _among(is_sqlite) if follows else and_(_among(is_sqlite), _GOING)
    if is_sqlite:
        noted = update(runs).where(which).values(awaited_by=listed).returning(runs.c.id, runs.c.seq)
        return Statement(noted, is_sqlite=True)
    # In the order of their ids: of two processes that await the same runs neither waits for the other.
    wanted = select(runs.c.id).where(which).order_by(runs.c.id)
    locked = wanted.with_for_update(key_share=True).cte("locked")
    lazily = func.set_config("synchronous_commit", "off", literal_column("true"))
    noted = update(runs).where(runs.c.id == locked.c.id).values(awaited_by=listed)
    return Statement(noted.returning(runs.c.id, runs.c.seq, lazily), is_sqlite=False)


def note(driver: Driver, run_ids: Sequence[str], entry: str) -> dict[str, int]:
    """Note who is to be told of these runs; returns the number of each that was noted: of the end, those that are not
    at rest; of every change, all that are there.

    It writes to the runs' rows, so that a change is either told of, or was committed before this.
    """
    statement = _note(driver.is_sqlite, entry[0].isupper())
    rows = driver.rows(statement, {"ids": json.dumps([*run_ids]), "entry": entry})
    return {row[0]: row[1] for row in rows}


@lru_cache(maxsize=2)
def _stands(is_sqlite: bool) -> Statement:
    found = select(runs.c.id, runs.c.seq, runs.c.phase).where(_among(is_sqlite))
    return Statement(found, is_sqlite=is_sqlite)


def stand(driver: Driver, run_ids: Sequence[str]) -> dict[str, Stand]:
    """How these runs stand; those that are not there are left out."""
    rows = driver.rows(_stands(driver.is_sqlite), {"ids": json.dumps([*run_ids])})
    return {row[0]: Stand(row[1], row[2] == Phase.SETTLED) for row in rows}


@lru_cache(maxsize=2)
def _at_rest(is_sqlite: bool) -> Statement:
    found = select(*_RUN_COLUMNS, unlocked_reads.saved_of(_ID, is_sqlite=is_sqlite))
    return Statement(found.where(and_(_among(is_sqlite), ~_GOING)), is_sqlite=is_sqlite)


def at_rest(driver: Driver, run_ids: Sequence[str]) -> list[AtRest]:
    """Those of the runs that are at rest."""
    rows = driver.rows(_at_rest(driver.is_sqlite), {"ids": json.dumps([*run_ids])})
    return [AtRest(facts_of_values(row[:-1]), unlocked_reads.read(row[-1])) for row in rows]


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
