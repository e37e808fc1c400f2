"""Profiles of workers: written when one joins, read by whoever asks who could carry a run."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, select

from stageflow_durable.model.roster import Profile, Roster
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import owners, profiles


def _seen(dialect: Any) -> Any:
    # The row is written in any case: its lock keeps a prune from deleting what a new owner is about to name.
    return (
        dialect.insert(profiles)
        .values(seen_at=now())
        .on_conflict_do_update(index_elements=["id"], set_={"seen_at": now()})
    )


_PUBLISH = Prepared(_seen)
_LIVE = (
    select(owners.c.profile)
    .where(and_(owners.c.dead_at.is_(None), owners.c.expires_at > ago(0.0)))
    .distinct()
    .subquery("live")
)
_ROSTER = Prepared(
    select(_LIVE.c.profile, profiles.c.body).join(profiles, profiles.c.id == _LIVE.c.profile, isouter=True)
)
_OF_NOBODY = ~exists(select(owners.c.id).where(owners.c.profile == profiles.c.id))


def publish(connection: Connection, profile: Profile) -> None:
    """Store a profile, once for all processes that share it."""
    _PUBLISH.run(connection, id=profile.id, body=profile.encoded)


def live(connection: Connection) -> Roster:
    """What the live workers know and serve."""
    bodies = [body for _profile, body in _ROSTER.run(connection).fetchall()]
    return Roster(tuple(_decoded(body) for body in bodies if body is not None), None in bodies)


def forget(connection: Connection, older_than: float) -> None:
    """Delete profiles that no owner names, and that nobody published for ``older_than`` seconds."""
    connection.execute(delete(profiles).where(and_(profiles.c.seen_at < ago(older_than), _OF_NOBODY)))


def decoded(body: str | None) -> Profile | None:
    """A stored profile; None: of a worker of an older release, which has none."""
    return None if body is None else _decoded(body)


@lru_cache(maxsize=256)
def _decoded(body: str) -> Profile:
    return Profile.decode(body)
