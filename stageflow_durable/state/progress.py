"""Small reads and writes beside the path of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, and_, bindparam, select, update

from stageflow_durable.model.work import Work
from stageflow_durable.state.locked import lock
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.strands import MINE, fence_of
from stageflow_durable.state.tables import saga_steps, strands

_REPORT = Prepared(update(strands).where(MINE))
_OUTCOME = Prepared(
    select(saga_steps.c.outcome).where(
        and_(saga_steps.c.run == bindparam("run_id"), saga_steps.c.stage == bindparam("of_stage"))
    )
)


def note(connection: Connection, run_id: str, kind: str, data: Mapping[str, Any], audit_key: bytes) -> None:
    """Add an event to a run's chain."""
    run = lock(connection, run_id, audit_key)
    if run is not None:
        run.emit(kind, **data)
        run.flush()


def report(connection: Connection, work: Work, text: str) -> None:
    """Show progress (JSON text) of the attempt in hand; refused, silently, once it is over."""
    _REPORT.run(connection, progress=text, **fence_of(work))


def outcome_of(connection: Connection, run_id: str, stage: str) -> str:
    """``"ok"`` or ``"unknown"``: how the action stood when its undo began."""
    return str(_OUTCOME.value(connection, run_id=run_id, of_stage=stage))
