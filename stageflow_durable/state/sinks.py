"""Sinks: how far each was told, and by which process.

Numbers are drawn before a transaction commits, so a higher one may be seen while a lower one is still to come. A cursor
that passed it would never tell it. Hence the horizon: first the last number that was drawn is read, then which
transactions have the table open for writing; once those have ended, nothing below is to come::

    writer A  | draws 7 ...................... commit |
    writer B        | draws 8, commit |
    reader          horizon(): 8, A is writing        | A has ended: 7 and 8 are there | tells 7, 8

On SQLite there is one writer at a time, and what a reader sees is all there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, case, delete, func, or_, select, text, update

from stageflow_durable.model.sinks import Horizon, SinkLease, SinkView
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.dialect import insert_for
from stageflow_durable.state.tables import events, runs, sinks
from stageflow_durable.store.values import FURTHEST_RETRY_SECONDS, MOST_BEHIND, NEVER_CAME_BACK, News
from stageflow_durable.store.views import sink_of, told_of

_DRAWN = text("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM stageflow_events_position")
# Every writer of the table holds this lock until its transaction has ended, whatever its role. One that is prepared to
# be committed in two phases has no process.
_WRITERS = text(
    "SELECT DISTINCT virtualtransaction FROM pg_locks WHERE locktype = 'relation' AND granted "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND relation = CAST('stageflow_events' AS regclass) AND mode = 'RowExclusiveLock' AND pid IS DISTINCT FROM "
    "pg_backend_pid()"
)
_EVENT = tuple(events.c[name] for name in ("run", "item", "seq", "type", "at", "data", "position"))
_OF_RUN = tuple(runs.c[name] for name in ("pipeline", "client_id", "key"))


def opened(connection: Connection, name: str) -> None:
    """Make a sink known, unless it is: it begins with what happens from now on."""
    position = _last(connection)
    fresh = insert_for(connection, sinks).values(name=name, position=position, created_at=now())
    connection.execute(fresh.on_conflict_do_nothing(index_elements=["name"]))


def _last(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        return int(connection.execute(_DRAWN).scalar_one())
    highest = select(events.c.position).where(events.c.position.is_not(None)).order_by(events.c.position.desc())
    told = connection.execute(select(func.max(sinks.c.position))).scalar()
    return max(connection.execute(highest.limit(1)).scalar() or 0, told or 0)


def horizon(connection: Connection, before: Horizon | None) -> Horizon:
    """Up to where all events are there, once its writers have ended; ``before``: one whose writers had not."""
    if connection.dialect.name != "postgresql":
        return Horizon(_last(connection))
    # In this order: whoever begins to write after the number was read draws a higher one.
    position = int(connection.execute(_DRAWN).scalar_one()) if before is None else before.position
    writers = frozenset(connection.execute(_WRITERS).scalars())
    return Horizon(position, writers if before is None else writers & before.writers)


def news(connection: Connection, after: int, upto: int, kinds: Sequence[str], limit: int) -> News:
    """Events of these kinds between two positions, in their order."""
    wanted = or_(*(events.c.type.startswith(kind, autoescape=True) for kind in kinds))
    found = connection.execute(
        select(*_EVENT, *_OF_RUN)
        .join(runs, runs.c.id == events.c.run)
        .where(and_(events.c.position > after, events.c.position <= upto, wanted))
        .order_by(events.c.position)
        .limit(limit)
    ).all()
    told = tuple((row.position, told_of(row, row)) for row in found)
    return News(told, upto if len(found) < limit else found[-1].position)


def taken(connection: Connection, name: str, owner: str, seconds: float) -> SinkLease | None:
    """The right to tell a sink, for so many seconds; None: another process has it, or it is not yet tried again."""
    # What lies further ahead than it can was written before the clock went back.
    ahead = sinks.c.expires_at > ago(-2 * seconds)
    free = or_(sinks.c.owner.is_(None), sinks.c.expires_at < ago(0.0), ahead)
    later = sinks.c.retry_at > ago(-FURTHEST_RETRY_SECONDS)
    due = or_(sinks.c.retry_at.is_(None), sinks.c.retry_at <= ago(0.0), later)
    # Against the process that had it: what that one still writes names the old fence.
    new: dict[str, Any] = {"owner": owner, "fence": sinks.c.fence + 1, "expires_at": now() + seconds}
    was_held = sinks.c.owner.is_not(None)
    new["tries"] = case((was_held, sinks.c.tries + 1), else_=sinks.c.tries)
    new["error"] = case((was_held, NEVER_CAME_BACK), else_=sinks.c.error)
    if not connection.execute(update(sinks).where(and_(sinks.c.name == name, free, due)).values(**new)).rowcount:
        return None
    columns = (sinks.c.name, sinks.c.fence, sinks.c.position, sinks.c.tries)
    return SinkLease._make(connection.execute(select(*columns).where(sinks.c.name == name)).one())


def _mine(lease: SinkLease) -> ColumnElement[bool]:
    # Against a process that took the sink over, and against whoever took its row away.
    return and_(sinks.c.name == lease.name, sinks.c.fence == lease.fence, sinks.c.owner.is_not(None))


def advanced(
    connection: Connection, lease: SinkLease, position: int, seconds: float, *, took: bool = False, well: bool = False
) -> bool:
    """It was told up to ``position``; the lease goes on for ``seconds``. False: another process has it by now."""
    values: dict[str, Any] = {"position": position, "expires_at": now() + seconds}
    if took:
        values["delivered_at"] = now()
    if well:
        values |= {"tries": 0, "error": None, "retry_at": None}
    return bool(connection.execute(update(sinks).where(_mine(lease)).values(**values)).rowcount)


def refused(connection: Connection, lease: SinkLease, position: int, error: str, seconds: float) -> bool:
    """It was told up to ``position`` and refused the next event; it is tried again in ``seconds``, by whoever takes it
    then. False: another process has it by now.
    """
    values = {"position": position, "tries": sinks.c.tries + 1, "error": error, "retry_at": now() + seconds}
    if position > lease.position:
        values["tries"] = 1
    changed = update(sinks).where(_mine(lease)).values(owner=None, expires_at=None, **values)
    return bool(connection.execute(changed).rowcount)


def left(connection: Connection, lease: SinkLease) -> None:
    """Whoever had it does not tell it any more."""
    connection.execute(update(sinks).where(_mine(lease)).values(owner=None, expires_at=None))


def freed(connection: Connection, owner: str) -> None:
    """A process was seen to end: others may tell at once what it told."""
    connection.execute(update(sinks).where(sinks.c.owner == owner).values(owner=None, expires_at=None))


def forgotten(connection: Connection, name: str) -> bool:
    """Forget a sink; returns whether it was known."""
    return bool(connection.execute(delete(sinks).where(sinks.c.name == name)).rowcount)


def seen(connection: Connection) -> list[SinkView]:
    """Every sink, by name."""
    moment = connection.execute(select(now())).scalar_one()
    rows = connection.execute(select(sinks).order_by(sinks.c.name)).all()
    return [_view(connection, row, moment) for row in rows]


def _view(connection: Connection, row: Any, moment: float) -> SinkView:
    beyond = events.c.position > row.position
    counted = select(events.c.position).where(beyond).limit(MOST_BEHIND).subquery()
    behind = connection.execute(select(func.count()).select_from(counted)).scalar_one()
    first = select(events.c.at).where(beyond).order_by(events.c.position).limit(1)
    return sink_of(row, behind, connection.execute(first).scalar() if behind else None, moment)
