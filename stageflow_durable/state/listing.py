"""Runs as lists: each follows an index from its end, however many runs there are. No locks are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, FromClause, Select, and_, desc, select, union_all

from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import AT_REST, RunStatus, StrandState
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.locked import facts_of
from stageflow_durable.state.tables import runs, strands
from stageflow_durable.state.views import summary_of

ATTENTION = (RunStatus.PARKED, RunStatus.FAILED, RunStatus.COMPENSATION_FAILED)
"""Statuses that wait for a person."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which runs to list; None: any. ``since`` in seconds since the epoch."""

    status: tuple[RunStatus, ...] | None = None
    pipeline: str | None = None
    client_id: str | None = None
    since: float | None = None
    limit: int = 100


def summaries(connection: Connection, wanted: Filter) -> list[RunSummary]:
    """Runs, the newest first."""
    equal = ((runs.c.pipeline, wanted.pipeline), (runs.c.client_id, wanted.client_id))
    where = [column == value for column, value in equal if value is not None]
    where += [] if wanted.since is None else [runs.c.created_at >= wanted.since]
    return [summary_of(facts_of(row)) for row in connection.execute(_found(wanted, where))]


def _found(wanted: Filter, where: list[ColumnElement[bool]]) -> Select[Any]:
    if wanted.status is None or len(wanted.status) < 2:
        among = [] if wanted.status is None else [runs.c.status.in_(map(constant, wanted.status))]
        return _newest(runs, wanted.limit, *where, *among)
    # Each status apart, along its index: together they would be sorted, or looked for among all the others.
    statuses = dict.fromkeys(wanted.status)
    each = [_newest(runs, wanted.limit, *where, runs.c.status == constant(status)).subquery() for status in statuses]
    return _newest(union_all(*map(select, each)).subquery(), wanted.limit)


def _newest(rows: FromClause, limit: int, *where: ColumnElement[bool]) -> Select[Any]:
    return select(rows).where(and_(True, *where)).order_by(desc(rows.c.created_at), desc(rows.c.id)).limit(limit)


def stuck(connection: Connection, older_than: float) -> list[RunSummary]:
    """Runs that should move and have not for ``older_than`` seconds: nothing runs, nothing is due later."""
    # Apart: each has its partial index.
    busy = [
        select(strands.c.run).where(and_(strands.c.run == runs.c.id, strands.c.state == constant(state))).exists()
        for state in (StrandState.RUNNING, StrandState.WAITING)
    ]
    active = runs.c.status.in_([constant(status) for status in RunStatus if status not in AT_REST])
    quiet = runs.c.updated_at < older_than
    found = select(runs).where(and_(active, quiet, *(~one for one in busy))).order_by(runs.c.updated_at).limit(100)
    return [summary_of(facts_of(row)) for row in connection.execute(found)]
