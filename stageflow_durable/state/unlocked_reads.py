"""Reads without the run's lock: a run, one of its strands, and what its stages have saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Integer, String, Text, and_, bindparam, case, cast, func, literal_column, null, select

from stageflow_durable.model.work import RunFacts, Saved
from stageflow_durable.state.clock import now
from stageflow_durable.state.driver import Statement
from stageflow_durable.state.tables import checkpoints, runs, strands
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.rows import StrandRow

MOST, LARGE = 64, 131_072
"""The most outputs that a look returns, and the most bytes of each. A text of PostgreSQL is at most a gigabyte; larger
results are read row by row.
"""

OF_RUN: Any = literal_column(str(NO_ITEM), Integer)
"""The item of the run's own rows, in the statement's text."""

_RUN: Any = bindparam("run_id", type_=String)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunFacts._fields)
_STRAND_COLUMNS = tuple(strands.c[name] for name in StrandRow._fields)


@lru_cache(maxsize=2)
def outputs(is_sqlite: bool) -> Statement:
    """What the stages of a run saved: name, encoded text and schema, in the order of their commits."""
    saved = select(checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema)
    found = saved.where(and_(checkpoints.c.run == _RUN, checkpoints.c.item == OF_RUN)).order_by(checkpoints.c.at)
    return Statement(found, is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def look(is_sqlite: bool) -> Statement:
    """Select a run and one of its strands, with the columns of ``RunFacts`` and ``StrandRow``; the clock; and the
    ``saved`` outputs.
    """
    joined = runs.join(strands, and_(strands.c.run == runs.c.id, strands.c.item == OF_RUN))
    found = (
        select(*_RUN_COLUMNS, *_STRAND_COLUMNS, now(), saved(is_sqlite=is_sqlite))
        .select_from(joined)
        .where(and_(runs.c.id == _RUN, strands.c.strand == bindparam("strand_id", type_=String)))
    )
    return Statement(found, is_sqlite=is_sqlite)


def saved(*, is_sqlite: bool) -> Any:
    """The outputs as JSON, for :func:`read`. NULL if there are none, and on SQLite, where another query is cheap."""
    return saved_of(_RUN, is_sqlite=is_sqlite)


def saved_of(run: Any, *, is_sqlite: bool) -> Any:
    """The same of a run that another part of the statement names."""
    if is_sqlite:
        return null()
    columns = (checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema, checkpoints.c.at)
    # In any order; ``read`` sorts them.
    own = and_(checkpoints.c.run == run, checkpoints.c.item == OF_RUN)
    some = select(*columns).where(own).limit(MOST + 1).subquery("some")
    large = func.octet_length(some.c.delta) > literal_column(str(LARGE), Integer)
    kept = (case((large, null()), else_=column) for column in (some.c.delta, some.c.saved_schema))
    return select(cast(func.json_agg(func.json_build_array(some.c.at, some.c.stage, *kept)), Text)).scalar_subquery()


def read(text: str | None) -> dict[str, Saved] | None:
    """The outputs by stage, from what ``saved`` returned; None if there were none or too many: query them instead."""
    rows = [] if text is None else json.loads(text)
    if not 0 < len(rows) <= MOST or any(schema is None for _at, _stage, _delta, schema in rows):
        return None
    rows.sort(key=itemgetter(0))
    return by_stage(row[1:] for row in rows)


def by_stage(rows: Iterable[Sequence[Any]]) -> dict[str, Saved]:
    """Rows of stage, encoded text and schema."""
    return {stage: Saved(delta, schema) for stage, delta, schema in rows}
