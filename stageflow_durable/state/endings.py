"""The end of owners that others wait for: what is confirmed, which undos that lets begin, and which still wait.

First the owner's row says that its end is confirmed; then each run of which an undo waits is looked at, in a
transaction of its own. A sweep finishes what whoever confirmed did not come to.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Double, String, and_, bindparam, exists, select

from stageflow_durable.errors import NotAllowed
from stageflow_durable.model.status import AttemptState, Phase, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.state import owners
from stageflow_durable.state.apply import transact
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import attempts
from stageflow_durable.state.tables import owners as owner_table
from stageflow_durable.state.tables import strands as strand_table
from stageflow_durable.transitions import release as releasing
from stageflow_durable.transitions.change import Change, How, Table
from stageflow_durable.transitions.facts import Part
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, EndedOwner

BATCH = 500
_VERB = "confirm-dead"

WAITS = and_(
    strand_table.c.state == constant(StrandState.WAITING),
    strand_table.c.wake_at >= bindparam("for_ever", type_=Double),
    strand_table.c.direction == constant(Phase.BACKWARD),
)
"""Strands of undos that wait for the end of an owner."""

_LOST = and_(
    attempts.c.run == strand_table.c.run,
    attempts.c.direction == constant(Phase.FORWARD),
    attempts.c.state == constant(AttemptState.UNKNOWN),
    attempts.c.kill_by >= bindparam("for_ever", type_=Double),
)
_WAITING_FOR = Prepared(
    select(strand_table.c.run)
    .where(
        and_(
            WAITS,
            exists(select(attempts.c.run).where(and_(_LOST, attempts.c.owner == bindparam("ended", type_=String)))),
        )
    )
    .distinct()
    .order_by(strand_table.c.run)
    .limit(BATCH)
)
_AWAITED_BY = Prepared(
    select(owner_table.c.id, owner_table.c.host, owner_table.c.pid, attempts.c.stage)
    .select_from(attempts.join(owner_table, owner_table.c.id == attempts.c.owner))
    .where(
        and_(
            attempts.c.run == bindparam("run_id", type_=String),
            attempts.c.direction == constant(Phase.FORWARD),
            attempts.c.state == constant(AttemptState.UNKNOWN),
            attempts.c.kill_by >= bindparam("for_ever", type_=Double),
            owner_table.c.confirmed.is_(False),
        )
    )
    .order_by(attempts.c.stage, owner_table.c.id)
)


def runs_waiting_for(connection: Connection, owner: str) -> list[str]:
    """Runs of which an undo waits for the end of that owner, some at a time."""
    found = _WAITING_FOR.column(connection, ended=owner, for_ever=UNTIL_CONFIRMED)
    return [str(run) for run in found]


def awaited_by(connection: Connection, run_id: str) -> list[Any]:
    """Owners for whose end a run waits: id, host, process, and the stage that was lost with it."""
    return _AWAITED_BY.rows(connection, run_id=run_id, for_ever=UNTIL_CONFIRMED)


def release(connection: Connection, run_id: str, owner: str, audit_key: bytes) -> tuple[Nudge, ...]:
    """Let the undos of a run begin that waited for that owner, whose end is confirmed."""
    row = owners.one(connection, owner)
    if row is None or not row.confirmed:
        return ()
    ended = EndedOwner(row.id, row.host, row.pid, row.confirmed_by, row.confirmed_reason)
    needs = (Part.STRANDS, Part.ATTEMPTS)
    change = transact(connection, run_id, lambda facts: releasing.release(facts, ended), audit_key, needs=needs)
    return () if change is None else change.nudges


def awaited_after(change: Change) -> set[str]:
    """Owners whose attempts a change wrote down as lost without a bound in time."""
    rows = [row for row in change.rows if row.table is Table.ATTEMPTS and row.how is How.INSERT]
    return {row.columns["owner"] for row in rows if row.columns.get("kill_by") == UNTIL_CONFIRMED}


def await_ends(connection: Connection, taken: Change | None) -> None:
    """Note for whose end somebody may have to wait, because an attempt was lost that has no bound in time."""
    for owner in set() if taken is None else awaited_after(taken):
        owners.await_end(connection, owner)


def confirm_by_person(connection: Connection, owner: str, reason: str, actor: str) -> None:
    """A person says that a process has ended. Raises NotAllowed where its lease holds, or somebody said so before."""
    if owners.confirm(connection, owner, actor, reason):
        return
    found = owners.one(connection, owner)
    if found is None:
        raise NotAllowed(owner, _VERB, "there is no such owner; stageflow workers --all --json lists them", of="worker")
    if found.confirmed:
        by = found.confirmed_by or "its parent, or itself"
        raise NotAllowed(owner, _VERB, f"its end was confirmed before, by {by}", of="worker")
    why = "its lease holds: it is alive. Stop its process; once its lease has run out this is possible"
    raise NotAllowed(owner, _VERB, why, of="worker")
