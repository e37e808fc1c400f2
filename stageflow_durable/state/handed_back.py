"""What was handed back, as rows: which strands wait for a worker that knows them, and when they are offered again.
See ``transitions/hand_back.py``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, and_, case, or_, select, tuple_, update

from stageflow_durable.model.roster import Need, Profile
from stageflow_durable.model.status import StrandState
from stageflow_durable.state import definitions
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.tables import runs
from stageflow_durable.state.tables import strands as strand_table
from stageflow_durable.store.values import BATCH, WaitingStrand
from stageflow_durable.store.views import need_of
from stageflow_durable.transitions.hand_back import RESTS_SECONDS

HANDED_BACK: ColumnElement[bool] = and_(
    strand_table.c.state == constant(StrandState.WAITING),
    # Only a hand-back makes a strand wait with a count: an attempt that begins sets it to 0.
    strand_table.c.nudges > 0,
)


_KEY = (strand_table.c.run, strand_table.c.strand, strand_table.c.item)
_WAITS = (
    *_KEY,
    runs.c.pipeline,
    runs.c.version,
    runs.c.definition,
    strand_table.c.queue,
    case((HANDED_BACK, 1), else_=0),
)


def need(connection: Connection, pipeline: str, version: str, definition: str, queue: str) -> Need:
    """What a strand needs of a worker: the definition of its run, or the newest, which may judge any run."""
    return need_of(pipeline, version, definition, queue, definitions.newest(connection, pipeline))


def waits(connection: Connection, run_ids: Iterable[str]) -> list[WaitingStrand]:
    """The strands of these runs that wait."""
    waiting = strand_table.c.state == constant(StrandState.WAITING)
    found = select(*_WAITS).join(runs, runs.c.id == strand_table.c.run)
    rows = connection.execute(found.where(and_(strand_table.c.run.in_(set(run_ids)), waiting))).all()
    needs = {about: need(connection, *about) for about in {tuple(row[3:7]) for row in rows}}
    return [WaitingStrand(*row[:3], needs[tuple(row[3:7])], bool(row[7])) for row in rows]


def put_off(connection: Connection, run_ids: Iterable[str]) -> None:
    """Let what was handed back rest, at no cost: no live worker knows it. One that joins wakes it."""
    these = and_(HANDED_BACK, strand_table.c.run.in_(set(run_ids)))
    _due_in(connection, select(*_KEY).where(these).order_by(*_KEY), RESTS_SECONDS)


def hasten(connection: Connection, profile: Profile) -> int:
    """Make due at most a batch of what was handed back and this worker knows; returns how many strands that was."""
    if connection.execute(select(strand_table.c.run).where(HANDED_BACK).limit(1)).first() is None:
        return 0  # as it mostly is
    newest = {name for name, known in profile.pipelines.items() if definitions.newest(connection, name) == known.digest}
    mine = or_(runs.c.definition.in_(profile.digests), runs.c.pipeline.in_(newest))
    found = select(*_KEY).join(runs, runs.c.id == strand_table.c.run)
    resting = and_(HANDED_BACK, strand_table.c.wake_at > now(), mine)
    return _due_in(connection, found.where(resting).order_by(*_KEY).limit(BATCH), 0.0)


def _due_in(connection: Connection, chosen: Select[Any], seconds: float) -> int:
    """No run is locked: a strand that somebody begins, and so has locked, is left out, and begins. The others are
    locked in the order of their runs, against a deadlock with another of this kind.
    """
    locked = chosen.with_for_update(skip_locked=True, of=strand_table)
    due = update(strand_table).where(tuple_(*_KEY).in_(locked)).values(wake_at=now() + seconds)
    return connection.execute(due).rowcount
