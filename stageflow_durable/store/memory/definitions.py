"""Stored definitions and what workers publish of themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow_durable.errors import UnknownRun
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.roster import Need, Profile, Roster
from stageflow_durable.store.memory import slots
from stageflow_durable.store.memory.rows import DefinitionRecord, ProfileRecord, Tables
from stageflow_durable.store.views import need_of


def register(
    tables: Tables, now: float, plans: Sequence[Plan], boot: str | None = None, profile: Profile | None = None
) -> None:
    """Store definitions. ``boot`` and ``profile``: of a worker that starts with them; its first child makes them the
    newest.
    """
    for plan in plans:
        if plan.digest not in tables.definitions:
            row = DefinitionRecord(plan.digest, plan.pipeline, plan.version, plan.encoded, now)
            tables.definitions.put(plan.digest, row)
            tables.plans[plan.digest] = plan
    if boot is None or (profile is not None and _has_joined(tables, boot, profile)):
        return
    for plan in [plan for plan in plans if newest(tables, plan.pipeline) != plan.digest]:
        row = tables.definitions.get(plan.digest) or row
        tables.definitions.put(plan.digest, row._replace(registered_at=now))
    slots.declare(tables, plans)


def _has_joined(tables: Tables, boot: str, profile: Profile) -> bool:
    return any(owner.boot == boot and owner.profile == profile.id for owner in tables.owners)


def plan_of(tables: Tables, digest: str) -> Plan:
    """The stored plan. Raises UnknownRun."""
    plan = tables.plans.get(digest)
    if plan is None:
        raise UnknownRun(f"definition {digest} is missing from the store")
    return plan


def of_pipeline(tables: Tables, pipeline: str) -> dict[str, float]:
    """When each definition of a pipeline was registered, by digest."""
    return {row.digest: row.registered_at for row in tables.definitions if row.pipeline == pipeline}


def newest(tables: Tables, pipeline: str) -> str | None:
    """Digest of the definition that was registered last for a pipeline."""
    found = of_pipeline(tables, pipeline)
    return max(found, key=lambda digest: found[digest], default=None)


def need(tables: Tables, pipeline: str, version: str, definition: str, queue: str) -> Need:
    """What a strand needs of a worker."""
    return need_of(pipeline, version, definition, queue, newest(tables, pipeline))


def publish(tables: Tables, now: float, profile: Profile) -> None:
    """Store a profile, once for all that share it: as it reads where it is stored as text."""
    known = tables.profiles.get(profile.id)
    stored = Profile.decode(profile.encoded) if known is None else known.profile
    tables.profiles.put(profile.id, ProfileRecord(profile.id, stored, now))


def roster(tables: Tables, now: float) -> Roster:
    """What the live workers know and serve."""
    live = dict.fromkeys(one.profile for one in tables.owners if one.dead_at is None and one.expires_at > now)
    return Roster(tuple(_profiles(tables, live)), None in live)


def _profiles(tables: Tables, ids: Iterable[str | None]) -> Iterable[Profile]:
    rows = (tables.profiles.get(id) for id in ids if id is not None)
    return (row.profile for row in rows if row is not None)
