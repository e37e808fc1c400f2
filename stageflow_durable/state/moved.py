"""When the database's clock has moved (a failover to a host whose clock is behind, a person, a time server).

Durations are meant to be kept: stored moments of what is under way move along with the clock, in one transaction, once
for all processes that notice. Rows that the moved clock wrote already are recognised by their run's ``updated_at``, and
left alone. Where that cannot be told, a moment stays as it is.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Double, and_, bindparam, case, exists, or_, select, update

from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.state import queues
from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.recovery import my_tick
from stageflow_durable.state.tables import items, runs, strands
from stageflow_durable.store.scans import MOVE_SECONDS
from stageflow_durable.store.values import ONE_CLOCK_SECONDS
from stageflow_durable.transitions.draft import NO_ITEM
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED

_BY, _WITHIN = (bindparam(name, type_=Double) for name in ("by", "within"))
_AHEAD = now() + ONE_CLOCK_SECONDS


def _changed_before(table: Any, *whose: Any) -> Any:
    at = table.c.updated_at
    return exists(select(at).where(and_(*whose, or_(at > _AHEAD, at < now() - _WITHIN))))


_CHANGED_BEFORE = or_(
    and_(strands.c.item == NO_ITEM, _changed_before(runs, runs.c.id == strands.c.run)),
    _changed_before(items, items.c.run == strands.c.run, items.c.item == strands.c.item),
)
_READY = Prepared(
    update(strands)
    .where(and_(strands.c.state == constant(StrandState.READY), strands.c.published_at > _AHEAD))
    .values(published_at=now())
)
_WAITS = and_(
    strands.c.state == constant(StrandState.WAITING),
    strands.c.wake_at > now(),
    strands.c.wake_at < UNTIL_CONFIRMED,
    _CHANGED_BEFORE,
)
_SOONER = strands.c.wake_at + _BY
_WAITING = Prepared(update(strands).where(_WAITS).values(wake_at=case((now() > _SOONER, now()), else_=_SOONER)))
# Of an undo that waits until a process has been ended: it counts its time by a clock that only passes.
_UNDOS = Prepared(
    update(strands)
    .where(
        and_(
            strands.c.state == constant(StrandState.WAITING),
            strands.c.direction == constant(Phase.BACKWARD),
            strands.c.first_at.is_(None),
            strands.c.wake_at > now() - _BY,
            strands.c.wake_at < UNTIL_CONFIRMED,
            _CHANGED_BEFORE,
        )
    )
    .values(wake_at=_SOONER)
)
_RUNNING = Prepared(
    update(strands)
    .where(
        and_(
            strands.c.state == constant(StrandState.RUNNING),
            strands.c.kill_by.is_not(None),
            or_(strands.c.began_at > _AHEAD, strands.c.began_at < now() - _WITHIN),
        )
    )
    .values(kill_by=strands.c.kill_by + _BY)
)


def follow(connection: Connection, by: float, within: float, lease_seconds: float) -> bool:
    """Move stored times ``by`` seconds (below zero: the clock went back), which happened ``within`` the last ones;
    False when another process did so.
    """
    which = "clock moved back" if by < 0 else "clock moved ahead"
    if not my_tick(connection, which, MOVE_SECONDS + lease_seconds):
        return False
    given = {"by": by, "within": within}
    _RUNNING.run(connection, **given)
    if by > 0:
        _UNDOS.run(connection, **given)
        return True
    _READY.run(connection)
    _WAITING.run(connection, **given)
    queues.moved_back(connection)
    return True
