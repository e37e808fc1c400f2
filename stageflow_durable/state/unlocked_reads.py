"""What is read without a lock: a run, one of its strands, and what the run's stages have saved."""

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
from stageflow_durable.transitions.rows import StrandRow

MOST, LARGE = 64, 131_072
"""How many outputs a look brings along at the most, and of how many bytes each. PostgreSQL makes no text of more than a
gigabyte; what is more than this is read row by row.
"""

_RUN: Any = bindparam("run_id", type_=String)
_RUN_COLUMNS = tuple(runs.c[name] for name in RunFacts._fields)
_STRAND_COLUMNS = tuple(strands.c[name] for name in StrandRow._fields)


@lru_cache(maxsize=2)
def outputs(is_sqlite: bool) -> Statement:
    """What the stages of a run saved: name, encoded text and schema, in the order of their commits."""
    saved = select(checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema)
    found = saved.where(checkpoints.c.run == _RUN).order_by(checkpoints.c.at)
    return Statement(found, is_sqlite=is_sqlite)


@lru_cache(maxsize=2)
def look(is_sqlite: bool) -> Statement:
    """A run and one of its strands, unlocked, as ``RunFacts`` and ``StrandRow`` have their columns; the clock; and what
    ``saved`` gives.
    """
    joined = runs.join(strands, strands.c.run == runs.c.id)
    found = (
        select(*_RUN_COLUMNS, *_STRAND_COLUMNS, now(), saved(is_sqlite=is_sqlite))
        .select_from(joined)
        .where(and_(runs.c.id == _RUN, strands.c.strand == bindparam("strand_id", type_=String)))
    )
    return Statement(found, is_sqlite=is_sqlite)


def saved(*, is_sqlite: bool) -> Any:
    """What ``outputs`` gives, as JSON for :func:`read`; NULL where there is nothing, and on SQLite, where asking once
    more is cheap.
    """
    if is_sqlite:
        return null()
    columns = (checkpoints.c.stage, checkpoints.c.delta, checkpoints.c.saved_schema, checkpoints.c.at)
    # In any order: :func:`read` sorts them.
    some = select(*columns).where(checkpoints.c.run == _RUN).limit(MOST + 1).subquery("some")
    large = func.octet_length(some.c.delta) > literal_column(str(LARGE), Integer)
    kept = (case((large, null()), else_=column) for column in (some.c.delta, some.c.saved_schema))
    return select(cast(func.json_agg(func.json_build_array(some.c.at, some.c.stage, *kept)), Text)).scalar_subquery()


def read(text: str | None) -> dict[str, Saved] | None:
    """What ``saved`` gave, by stage; None where it has to be asked for, being nothing, or too much."""
    rows = [] if text is None else json.loads(text)
    if not 0 < len(rows) <= MOST or any(schema is None for _at, _stage, _delta, schema in rows):
        return None
    rows.sort(key=itemgetter(0))
    return by_stage(row[1:] for row in rows)


def by_stage(rows: Iterable[Sequence[Any]]) -> dict[str, Saved]:
    """Rows of stage, encoded text and schema."""
    return {stage: Saved(delta, schema) for stage, delta, schema in rows}
