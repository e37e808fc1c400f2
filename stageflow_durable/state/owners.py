"""Owners: pool children that hold work, and the lease by which the others know that they live.

An owner is alive until somebody marks it dead; a sweep does so when the lease ran out, the pool's parent when it saw
the process end. Renewal is one statement a process, and refused once marked: who was declared dead stays dead and
comes back under a new id.

Dead is not ended: a lease also runs out under a process that is cut off. That nothing of it can act any more is
*confirmed*: by its parent, by another process of its host, by itself once its body has returned, or by a person.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    insert,
    null,
    or_,
    select,
    true,
    update,
)

from stageflow_durable.model.roster import Profile
from stageflow_durable.state import roster
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import owners, profiles
from stageflow_durable.store.values import (
    BY_ITSELF,
    BY_PARENT,
    LONGEST_LEASE,
    ONE_CLOCK_SECONDS,
    Awaited,
    Identity,
    new_owner_id,
)


def _p(name: str, kind: Any = Double) -> Any:
    return bindparam(name, type_=kind)


_LEASE = _p("lease_seconds")
_ALIVE = and_(owners.c.id == _p("me", String), owners.c.dead_at.is_(None))
_FRESH = and_(owners.c.expires_at > now() + _LEASE / 2, owners.c.expires_at <= now() + _LEASE + ONE_CLOCK_SECONDS)
"""Renewed within half a lease by this clock: neither a pause nor a clock that moved lies in between."""

# A child inherits from those of its worker: that the worker as a whole has renewed without a gap.
_INHERITED = (
    select(func.min(owners.c.steady_since))
    .where(and_(owners.c.boot == _p("of_boot", String), owners.c.lease == _LEASE, _FRESH))
    .scalar_subquery()
)
_REGISTER = Prepared(
    insert(owners).values(
        expires_at=now() + _LEASE, started_at=now(), lease=_LEASE, steady_since=func.coalesce(_INHERITED, now())
    )
)
_BOOTED = Prepared(
    select(owners.c.id)
    .where(and_(owners.c.boot == bindparam("by_boot"), owners.c.profile == bindparam("with_profile")))
    .limit(1)
)
_RENEW = Prepared(
    update(owners)
    .where(_ALIVE)
    .values(
        expires_at=now() + _LEASE,
        lease=_LEASE,
        steady_since=case(
            (and_(_FRESH, owners.c.lease == _LEASE, owners.c.steady_since <= now()), owners.c.steady_since),
            else_=now(),
        ),
    )
    .returning(now())
)


def _confirmed(by: Any, reason: Any = None) -> dict[str, Any]:
    at = func.coalesce(owners.c.dead_at, now())
    return {
        "dead_at": at,
        "confirmed": true(),
        "confirmed_at": now(),
        "confirmed_by": by,
        "confirmed_reason": null() if reason is None else reason,
    }


_UNCONFIRMED = owners.c.confirmed.is_(False)
_RETIRE = Prepared(
    update(owners).where(and_(owners.c.id == _p("me", String), _UNCONFIRMED)).values(**_confirmed(BY_ITSELF))
)
_OVER = owners.c.expires_at < now() - _p("slack")
_MARK_EXPIRED = Prepared(
    update(owners).where(and_(owners.c.dead_at.is_(None), _OVER)).values(dead_at=now()).returning(owners.c.id)
)
_judge = owners.alias("judge")
_JUDGED_FOR = (
    select(now() - _judge.c.steady_since)
    .where(
        and_(
            _judge.c.id == _p("judge", String),
            _judge.c.dead_at.is_(None),
            _judge.c.steady_since <= now() - _judge.c.lease,
            _judge.c.expires_at > now() + _judge.c.lease / 2,
            _judge.c.expires_at <= now() + _judge.c.lease + ONE_CLOCK_SECONDS,
        )
    )
    .scalar_subquery()
)
"""For how long the judge has renewed without a gap; NULL for one who may not judge now."""

_ITS_LEASE: ColumnElement[float] = func.coalesce(owners.c.lease, LONGEST_LEASE)
# A lease that ends later than any renewal can make it was given by a clock that has gone back since. Who lives has
# renewed by this clock within a lease.
_OF_ANOTHER_CLOCK = and_(
    owners.c.expires_at > now() + _ITS_LEASE + ONE_CLOCK_SECONDS, _JUDGED_FOR > _ITS_LEASE + ONE_CLOCK_SECONDS
)
_JUDGE = Prepared(
    update(owners)
    .where(
        and_(
            owners.c.dead_at.is_(None),
            _JUDGED_FOR.is_not(None),
            or_(owners.c.expires_at < now(), _OF_ANOTHER_CLOCK),
        )
    )
    .values(dead_at=now())
    .returning(owners.c.id)
)
_MAY_JUDGE = Prepared(select(_JUDGED_FOR))
_OF_PROCESS = and_(owners.c.boot == bindparam("of_boot"), owners.c.pid == bindparam("of_pid"), _UNCONFIRMED)
_MARK_KILLED = Prepared(update(owners).where(_OF_PROCESS).values(**_confirmed(BY_PARENT)).returning(owners.c.id))
_CONFIRM = Prepared(
    update(owners)
    .where(and_(owners.c.id == _p("ended", String), _UNCONFIRMED, or_(owners.c.dead_at.is_not(None), _OVER)))
    .values(**_confirmed(_p("by", String), _p("reason", String)))
    .returning(owners.c.id)
)
_IS_AWAITED = owners.c.awaited.is_(True)
_NEAR = or_(owners.c.kernel == _p("my_kernel", String), owners.c.host == _p("my_host", String))
_AWAITED = Prepared(
    select(*(owners.c[name] for name in Awaited._fields)).where(and_(_IS_AWAITED, _UNCONFIRMED, _NEAR)).limit(500)
)
_AWAIT = Prepared(update(owners).where(owners.c.id == _p("held_by", String)).values(awaited=true()))
_RELEASED = Prepared(
    update(owners).where(and_(owners.c.id == _p("ended", String), owners.c.confirmed.is_(True))).values(awaited=false())
)
_ONE = Prepared(select(owners).where(owners.c.id == _p("asked", String)))


def register(connection: Connection, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
    """A new owner; returns its id. ``profile``: what it knows and serves."""
    owner = new_owner_id(identity)
    told = {} if profile is None else {"profile": profile.id}
    if profile is not None:
        roster.publish(connection, profile)
    me = {"id": owner, "host": identity.host, "pid": identity.pid, "boot": identity.boot, **identity.mark._asdict()}
    _REGISTER.run(connection, of_boot=identity.boot, lease_seconds=lease_seconds, **me, **told)
    return owner


def booted(connection: Connection, boot: str, profile: Profile) -> bool:
    """Whether some child of that worker has joined before, for the same engine."""
    return _BOOTED.value(connection, by_boot=boot, with_profile=profile.id) is not None


def renew(connection: Connection, owner: str, lease_seconds: float) -> float | None:
    """Extend the lease; returns the database's time, or None when the owner was declared dead: it must commit nothing
    more.
    """
    at = _RENEW.value(connection, me=owner, lease_seconds=lease_seconds)
    return None if at is None else float(at)


def retire(connection: Connection, owner: str) -> None:
    """Nothing of this owner acts any more, by its own word: its process is about to end, or its body has returned after
    it was declared dead.
    """
    _RETIRE.run(connection, me=owner)


def mark_expired(connection: Connection, slack: float) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out ``slack`` seconds ago."""
    return tuple(_MARK_EXPIRED.column(connection, slack=slack))


def judge(connection: Connection, by: str) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out, by the right of one that has renewed for a lease without a gap;
    after a pause of the database, or when its clock has moved, everybody looks dead.
    """
    return tuple(_JUDGE.column(connection, judge=by))


def may_judge(connection: Connection, owner: str) -> bool:
    """Whether this owner may judge others."""
    return _MAY_JUDGE.value(connection, judge=owner) is not None


def mark_killed(connection: Connection, boot: str, pid: int) -> tuple[str, ...]:
    """Declare dead the owners of a process that its parent saw end: nothing of it can act any more."""
    return tuple(_MARK_KILLED.column(connection, of_boot=boot, of_pid=pid))


def confirm(connection: Connection, owner: str, by: str, reason: str | None = None) -> bool:
    """Note that the process of a dead owner has ended; False when it was confirmed before, or is not dead."""
    return _CONFIRM.value(connection, ended=owner, by=by, reason=reason, slack=0.0) is not None


def await_end(connection: Connection, owner: str | None) -> None:
    """An undo may have to wait until the end of this owner is confirmed."""
    _AWAIT.run(connection, held_by=owner)


def awaited(connection: Connection, host: str, kernel: str | None) -> list[Awaited]:
    """Dead owners of that host for which undos may wait, and whose end nobody has confirmed."""
    return [Awaited._make(row) for row in _AWAITED.run(connection, my_host=host, my_kernel=kernel).fetchall()]


def released(connection: Connection, owner: str) -> None:
    """Nothing waits for this owner any more."""
    _RELEASED.run(connection, ended=owner)


def one(connection: Connection, owner: str) -> Any:
    """An owner's row, or None."""
    return next(iter(_ONE.rows(connection, asked=owner)), None)


def alive_and_dead(connection: Connection, limit: int) -> list[Any]:
    """Owners with whether they live, and what they know and serve (encoded), the newest first."""
    alive = and_(owners.c.dead_at.is_(None), owners.c.expires_at > now())
    of = select(owners, alive.label("alive"), profiles.c.body).join(
        profiles, profiles.c.id == owners.c.profile, isouter=True
    )
    return list(connection.execute(of.order_by(alive.desc(), owners.c.started_at.desc()).limit(limit)))
