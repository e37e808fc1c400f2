"""Owners: pool children that hold work, and the lease by which the others know that they live.

An owner is alive until somebody marks it dead; a sweep does so when the lease ran out, the pool's parent when it saw
the process end. Renewal is one statement a process, and refused once marked: who was declared dead stays dead and
comes back under a new id.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, insert, select, update

from stageflow_durable.state.clock import now
from stageflow_durable.state.dialect import insert_for
from stageflow_durable.state.tables import owners, queues

_ALIVE = and_(owners.c.id == bindparam("me"), owners.c.dead_at.is_(None))
_RENEW = update(owners).where(_ALIVE).values(expires_at=now() + bindparam("lease"))
_MARK_EXPIRED = (
    update(owners)
    .where(and_(owners.c.dead_at.is_(None), owners.c.expires_at < now() - bindparam("slack")))
    .values(dead_at=now())
    .returning(owners.c.id)
)


@dataclass(frozen=True, slots=True)
class Identity:
    """A process: host name, process id, and the boot id that all children of one worker share."""

    host: str
    pid: int
    boot: str


def register(connection: Connection, identity: Identity, lease_seconds: float) -> str:
    """A new owner; returns its id."""
    owner = f"{identity.boot}-{identity.pid}-{secrets.token_hex(4)}"
    connection.execute(
        insert(owners).values(expires_at=now() + lease_seconds, started_at=now()),
        {"id": owner, "host": identity.host, "pid": identity.pid, "boot": identity.boot},
    )
    return owner


def booted(connection: Connection, boot: str) -> bool:
    """Whether some child of that worker has joined before."""
    return connection.execute(select(owners.c.id).where(owners.c.boot == boot).limit(1)).first() is not None


def renew(connection: Connection, owner: str, lease_seconds: float) -> bool:
    """Extend the lease; False when the owner was declared dead: it must commit nothing more."""
    return bool(connection.execute(_RENEW, {"me": owner, "lease": lease_seconds}).rowcount)


def retire(connection: Connection, owner: str) -> None:
    """The process is about to end by itself."""
    connection.execute(update(owners).where(_ALIVE).values(dead_at=now(), confirmed=True), {"me": owner})


def mark_expired(connection: Connection, slack: float) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out ``slack`` seconds ago."""
    return tuple(connection.execute(_MARK_EXPIRED, {"slack": slack}).scalars())


def mark_killed(connection: Connection, boot: str, pid: int) -> tuple[str, ...]:
    """Declare dead the owners of a process that its parent saw end: nothing of it can act any more."""
    mine = and_(owners.c.boot == boot, owners.c.pid == pid, owners.c.confirmed.is_(False))
    dead_at = func.coalesce(owners.c.dead_at, now())
    return tuple(
        connection.execute(
            update(owners).where(mine).values(dead_at=dead_at, confirmed=True).returning(owners.c.id)
        ).scalars()
    )


def served(connection: Connection, marks: dict[str, float]) -> None:
    """Note up to when the nudges of each queue were served; never backwards."""
    for queue, at in sorted(marks.items()):
        statement = insert_for(connection, queues).values(name=queue, served_at=at)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["name"],
                set_={"served_at": statement.excluded.served_at},
                where=queues.c.served_at < statement.excluded.served_at,
            )
        )


def alive_and_dead(connection: Connection, limit: int) -> list[Any]:
    """Owners with whether they live, the newest first."""
    alive = and_(owners.c.dead_at.is_(None), owners.c.expires_at > now())
    return list(
        connection.execute(
            select(owners, alive.label("alive")).order_by(alive.desc(), owners.c.started_at.desc()).limit(limit)
        )
    )
