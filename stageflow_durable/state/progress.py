"""The progress that a body shows."""

from __future__ import annotations

from sqlalchemy import Connection, and_, bindparam, update

from stageflow_durable.model.status import StrandState
from stageflow_durable.model.work import Work
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import strands

# Against a zombie whose strand was taken, and an attempt that is over: as ``transitions.fence.is_mine``.
_REPORT = Prepared(
    update(strands).where(
        and_(
            strands.c.run == bindparam("run_id"),
            strands.c.strand == bindparam("strand_id"),
            strands.c.item == bindparam("of_item"),
            strands.c.gen == bindparam("my_gen"),
            strands.c.owner == bindparam("me"),
            strands.c.stage == bindparam("my_stage"),
            strands.c.attempt == bindparam("my_attempt"),
            strands.c.state == StrandState.RUNNING.value,
        )
    )
)


def report(connection: Connection, work: Work, text: str) -> None:
    """Show progress (JSON text) of the attempt in hand; refused, silently, once it is over."""
    fence = {
        "run_id": work.run.id,
        "strand_id": work.strand,
        "of_item": work.item,
        "my_gen": work.gen,
        "me": work.owner,
        "my_stage": work.stage,
        "my_attempt": work.attempt,
    }
    _REPORT.run(connection, progress=text, **fence)
