"""Stored definitions: a run carries the digest of the plan it began under."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from sqlalchemy import Connection, bindparam, select, update

from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.state import slots
from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import definitions

_REGISTER = Prepared(lambda dialect: dialect.insert(definitions).values(registered_at=now()).on_conflict_do_nothing())
_BODY = Prepared(select(definitions.c.body).where(definitions.c.digest == bindparam("digest")))
_NEWEST = Prepared(
    select(definitions.c.digest)
    .where(definitions.c.pipeline == bindparam("pipeline"))
    .order_by(definitions.c.registered_at.desc())
    .limit(1)
)


def register(connection: Connection, plan: Plan) -> None:
    """Store a plan unless it is there already."""
    _REGISTER.run(connection, digest=plan.digest, pipeline=plan.pipeline, version=plan.version, body=plan.encoded)


def deployed(connection: Connection, plans: Sequence[Plan]) -> None:
    """A worker was started with these: they are the newest now, also where they were known before (a roll-back)."""
    digests = [plan.digest for plan in plans if newest(connection, plan.pipeline) != plan.digest]
    connection.execute(update(definitions).where(definitions.c.digest.in_(digests)).values(registered_at=now()))
    if any(plan.has_limits for plan in plans):
        slots.declare(connection, plans)


def plan_of(connection: Connection, digest: str) -> Plan:
    """The stored plan; definitions never change, so each is read once a process."""
    cached = _CACHE.get(digest)
    if cached is None:
        body = _BODY.value(connection, digest=digest)
        if body is None:
            raise UnknownRun(f"definition {digest} is missing from the database")
        cached = _CACHE[digest] = decoded(body)
    return cached


def newest(connection: Connection, pipeline: str) -> str | None:
    """Digest of the definition that was registered last for a pipeline."""
    digest: str | None = _NEWEST.value(connection, pipeline=pipeline)
    return digest


@lru_cache(maxsize=1024)
def decoded(body: str) -> Plan:
    """The plan stored as ``body``."""
    return Plan.decode(body)


_CACHE: dict[str, Plan] = {}
