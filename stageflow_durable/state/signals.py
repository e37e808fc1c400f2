"""Which run a signal is meant for. No locks are taken: the run's own transaction decides whether it takes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, exists, select

from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.state import views
from stageflow_durable.state.definitions import decoded, plan_of
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.tables import checkpoints, definitions, runs, signals
from stageflow_durable.store.values import MOST_FOUND, TAKES_SIGNALS, Wanted


def plan(connection: Connection, run_id: str) -> Plan:
    """The definition by which the run goes now. Raises UnknownRun."""
    found = views.facts(connection, run_id)
    if found is None:
        raise UnknownRun(f"no run {run_id}")
    return plan_of(connection, found.definition)


def runs_for(connection: Connection, wanted: Wanted) -> list[str]:
    """Runs that the signal came to before under its key; else those that wait for it, or will. At most a few."""
    fits = [
        column == value
        for column, value in (
            (runs.c.client_id, wanted.client_id),
            (runs.c.pipeline, wanted.pipeline),
            (runs.c.key, wanted.correlation),
        )
        if value is not None
    ]
    if wanted.key is not None:
        same = and_(signals.c.run == runs.c.id, signals.c.stage == wanted.name, signals.c.key == wanted.key)
        before = _some(connection, select(runs.c.id).join(signals, same), fits)
        if before:
            return before
    waiting = [digest for digest, body in _definitions(connection, wanted.pipeline) if _waits(body, wanted.name)]
    if not waiting:
        return []
    over, told = (
        exists(select(table.c.run).where(and_(table.c.run == runs.c.id, table.c.stage == wanted.name)))
        for table in (checkpoints, signals)
    )
    takes = runs.c.status.in_([constant(status) for status in TAKES_SIGNALS])
    return _some(connection, select(runs.c.id), [*fits, takes, runs.c.definition.in_(waiting), ~over, ~told])


def _some(connection: Connection, found: Any, where: Iterable[ColumnElement[bool]]) -> list[str]:
    return list(connection.execute(found.where(and_(True, *where)).order_by(runs.c.id).limit(MOST_FOUND)).scalars())


def _definitions(connection: Connection, pipeline: str | None) -> Iterable[Any]:
    found = select(definitions.c.digest, definitions.c.body)
    return connection.execute(found if pipeline is None else found.where(definitions.c.pipeline == pipeline))


def _waits(body: str, name: str) -> bool:
    known = decoded(body).by_name.get(name)
    return known is not None and known.is_wait
