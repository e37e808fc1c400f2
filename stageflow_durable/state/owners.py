"""Owners: pool children that hold work, and the lease by which the others know that they live.

An owner is alive until somebody marks it dead; a sweep does so when the lease ran out, the pool's parent when it saw
the process end. Renewal is one statement a process, and refused once marked: who was declared dead stays dead and
comes back under a new id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, select, true, update

from stageflow_durable.model.roster import Profile
from stageflow_durable.state import roster
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import owners, profiles, queues

_ALIVE = and_(owners.c.id == bindparam("me"), owners.c.dead_at.is_(None))
_REGISTER = Prepared(insert(owners).values(expires_at=now() + bindparam("lease"), started_at=now()))
_BOOTED = Prepared(
    select(owners.c.id)
    .where(and_(owners.c.boot == bindparam("by_boot"), owners.c.profile == bindparam("with_profile")))
    .limit(1)
)
_RENEW = Prepared(update(owners).where(_ALIVE).values(expires_at=now() + bindparam("lease")))
_RETIRE = Prepared(update(owners).where(_ALIVE).values(dead_at=now(), confirmed=true()))
_MARK_EXPIRED = Prepared(
    update(owners)
    .where(and_(owners.c.dead_at.is_(None), owners.c.expires_at < now() - bindparam("slack")))
    .values(dead_at=now())
    .returning(owners.c.id)
)
_OF_PROCESS = and_(
    owners.c.boot == bindparam("of_boot"), owners.c.pid == bindparam("of_pid"), owners.c.confirmed.is_(False)
)
_MARK_KILLED = Prepared(
    update(owners)
    .where(_OF_PROCESS)
    .values(dead_at=func.coalesce(owners.c.dead_at, now()), confirmed=true())
    .returning(owners.c.id)
)


def _onwards(dialect: Any) -> Any:
    inserting = dialect.insert(queues)
    served_at = inserting.excluded.served_at
    return inserting.on_conflict_do_update(
        index_elements=["name"], set_={"served_at": served_at}, where=queues.c.served_at < served_at
    )


_SERVED = Prepared(_onwards)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: host name, process id, and the boot id that all children of one worker share."""

    host: str
    pid: int
    boot: str


def register(connection: Connection, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
    """A new owner; returns its id. ``profile``: what it knows and serves."""
    owner = f"{identity.boot}-{identity.pid}-{secrets.token_hex(4)}"
    told = {} if profile is None else {"profile": profile.id}
    if profile is not None:
        roster.publish(connection, profile)
    me = {"id": owner, "host": identity.host, "pid": identity.pid, "boot": identity.boot}
    _REGISTER.run(connection, lease=lease_seconds, **me, **told)
    return owner


def booted(connection: Connection, boot: str, profile: Profile) -> bool:
    """Whether some child of that worker has joined before, for the same engine."""
    return _BOOTED.value(connection, by_boot=boot, with_profile=profile.id) is not None


def renew(connection: Connection, owner: str, lease_seconds: float) -> bool:
    """Extend the lease; False when the owner was declared dead: it must commit nothing more."""
    return bool(_RENEW.run(connection, me=owner, lease=lease_seconds).rowcount)


def retire(connection: Connection, owner: str) -> None:
    """The process is about to end by itself."""
    _RETIRE.run(connection, me=owner)


def mark_expired(connection: Connection, slack: float) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out ``slack`` seconds ago."""
    return tuple(_MARK_EXPIRED.column(connection, slack=slack))


def mark_killed(connection: Connection, boot: str, pid: int) -> tuple[str, ...]:
    """Declare dead the owners of a process that its parent saw end: nothing of it can act any more."""
    return tuple(_MARK_KILLED.column(connection, of_boot=boot, of_pid=pid))


def served(connection: Connection, marks: dict[str, float]) -> None:
    """Note up to when the nudges of each queue were served; never backwards."""
    for queue, at in sorted(marks.items()):
        _SERVED.run(connection, name=queue, served_at=at)


def alive_and_dead(connection: Connection, limit: int) -> list[Any]:
    """Owners with whether they live, and what they know and serve (encoded), the newest first."""
    alive = and_(owners.c.dead_at.is_(None), owners.c.expires_at > now())
    of = select(owners, alive.label("alive"), profiles.c.body).join(
        profiles, profiles.c.id == owners.c.profile, isouter=True
    )
    return list(connection.execute(of.order_by(alive.desc(), owners.c.started_at.desc()).limit(limit)))
