"""How many runs stand at once: what decides which verbs are allowed, without reading each run in full.

Runs whose rows are alike stand alike. Of each kind one is read in full, by the code that ``stageflow show`` uses; of
the others only the columns that decide are read, in a few statements for hundreds of runs.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from sqlalchemy import Column, Connection, and_, select

from stageflow_durable.model.status import RunStatus
from stageflow_durable.model.verbs import Standing, standing
from stageflow_durable.state import views
from stageflow_durable.state.dialect import among
from stageflow_durable.state.tables import attempts, checkpoints, runs, saga_steps, strands
from stageflow_durable.store.values import Known, Seen
from stageflow_durable.transitions.draft import NO_ITEM

_DECIDE = ("id", "op_version", "status", "definition", "phase", "park_reason", "pivot_passed", "error_stage")
_OWN = (*(runs.c[name] for name in _DECIDE), runs.c.erased_at.is_not(None).label("erased"))

_PARTS: Mapping[str, tuple[Column[Any], ...]] = {
    "strand": (strands.c.run, strands.c.stage, strands.c.direction, strands.c.state),
    "attempt": (attempts.c.run, attempts.c.stage, attempts.c.direction, attempts.c.n, attempts.c.state),
    "checkpoint": (checkpoints.c.run, checkpoints.c.stage, checkpoints.c.skipped),
    "step": (saga_steps.c.run, saga_steps.c.stage, saga_steps.c.state),
}


def standings(connection: Connection, ids: Sequence[str], known: Known) -> dict[str, Seen]:
    """How the runs of these ids stand, by id; those that are gone are left out."""
    if connection.dialect.name == "postgresql":
        # One moment for all: of which kind a run is, and how one of that kind stands.
        connection = connection.execution_options(isolation_level="REPEATABLE READ")
    found = connection.execute(select(*_OWN).where(among(connection, runs.c.id, ids))).all()
    parts = _parts(connection, ids)
    seen: dict[str, Seen] = {}
    for run, op_version, status, *own in found:
        kind = (status, *own, frozenset(parts.get(run, ())))
        stands = known.get(kind)
        if stands is None:
            stands = known[kind] = _rest(standing(views.run(connection, run)))
        seen[run] = Seen(run, RunStatus(status), op_version, Standing(run, *stands))
    return seen


def _rest(stands: Standing) -> tuple[Any, ...]:
    return tuple(getattr(stands, field.name) for field in fields(stands)[1:])


def _parts(connection: Connection, ids: Sequence[str]) -> dict[str, list[Hashable]]:
    """By run, what its other rows say: of the attempts of a stage only how the last one ended."""
    parts: dict[str, list[Hashable]] = {}
    for name, columns in _PARTS.items():
        own = and_(among(connection, columns[0], ids), columns[0].table.c.item == NO_ITEM)
        rows: Iterable[Any] = connection.execute(select(*columns).where(own))
        if name == "attempt":
            rows = _last(rows)
        for run, *said in rows:
            parts.setdefault(run, []).append((name, *said))
    return parts


def _last(rows: Iterable[Any]) -> Iterable[tuple[str, str, str, str]]:
    last: dict[tuple[str, str, str], tuple[int, str]] = {}
    for run, stage, direction, n, state in rows:
        place = (run, stage, direction)
        if n >= last.get(place, (0, ""))[0]:
            last[place] = (n, state)
    return [(*place, state) for place, (_n, state) in last.items()]
