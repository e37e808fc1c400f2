"""Owners: leases, deaths, confirmed ends. The rules are those of ``state.owners``, whose docstring tells what they are
for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stageflow_durable.model.roster import Profile
from stageflow_durable.store.memory import definitions
from stageflow_durable.store.memory.rows import OwnerRecord, QueueRecord, Tables
from stageflow_durable.store.values import (
    BATCH,
    BY_ITSELF,
    BY_PARENT,
    ONE_CLOCK_SECONDS,
    Awaited,
    Identity,
    new_owner_id,
)


def join(tables: Tables, now: float, identity: Identity, lease_seconds: float, profile: Profile | None = None) -> str:
    """A new owner; returns its id."""
    if profile is not None:
        definitions.publish(tables, now, profile)
    # A child inherits from those of its worker: that the worker as a whole has renewed without a gap.
    others = [row for row in tables.owners if row.boot == identity.boot and _is_fresh(row, now, lease_seconds)]
    made = OwnerRecord(
        new_owner_id(identity),
        identity.host,
        identity.pid,
        identity.boot,
        now,
        now + lease_seconds,
        lease_seconds,
        min((row.steady_since for row in others), default=now),
        profile=None if profile is None else profile.id,
        **identity.mark._asdict(),
    )
    tables.owners.put(made.id, made)
    return made.id


def _is_fresh(row: OwnerRecord, now: float, lease: float) -> bool:
    """Whether it renewed such a lease within half of it by this clock."""
    return row.lease == lease and now + lease / 2 < row.expires_at <= now + lease + ONE_CLOCK_SECONDS


def renew(tables: Tables, now: float, owner: str, lease_seconds: float) -> float | None:
    """Renew a lease; returns the store's time, or None: declared dead."""
    row = tables.owners.get(owner)
    if row is None or row.dead_at is not None:
        return None
    steady = _is_fresh(row, now, lease_seconds) and row.steady_since <= now
    since = row.steady_since if steady else now
    tables.owners.put(owner, row._replace(expires_at=now + lease_seconds, lease=lease_seconds, steady_since=since))
    return now


def is_alive(tables: Tables, now: float, owner: str) -> bool:
    """Whether the lease of an owner holds."""
    row = tables.owners.get(owner)
    return row is not None and row.dead_at is None and row.expires_at > now


def retire(tables: Tables, now: float, owner: str) -> None:
    """Nothing of it acts any more, by its own word."""
    row = tables.owners.get(owner)
    if row is not None and not row.confirmed:
        _confirmed(tables, now, row, BY_ITSELF)


def _confirmed(tables: Tables, now: float, row: OwnerRecord, by: str, reason: str | None = None) -> None:
    made = row._replace(
        dead_at=now if row.dead_at is None else row.dead_at,
        confirmed=True,
        confirmed_at=now,
        confirmed_by=by,
        confirmed_reason=reason,
    )
    tables.owners.put(row.id, made)


def mark_killed(tables: Tables, now: float, boot: str, pid: int) -> tuple[str, ...]:
    """A process was seen to end; returns its owners that nobody had confirmed."""
    ended = [row for row in tables.owners if (row.boot, row.pid) == (boot, pid) and not row.confirmed]
    for row in ended:
        _confirmed(tables, now, row, BY_PARENT)
    return tuple(row.id for row in ended)


def mark_expired(tables: Tables, now: float, slack: float = 0.0) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out ``slack`` seconds ago."""
    return _declare_dead(tables, now, [row for row in tables.owners if row.expires_at < now - slack])


def _declare_dead(tables: Tables, now: float, rows: Iterable[OwnerRecord]) -> tuple[str, ...]:
    dead = [row for row in rows if row.dead_at is None]
    for row in dead:
        tables.owners.put(row.id, row._replace(dead_at=now))
    return tuple(row.id for row in dead)


def judge(tables: Tables, now: float, by: str) -> tuple[str, ...]:
    """Declare dead every owner whose lease ran out, by the right of one that has renewed for a lease without a gap."""
    steady_for = _judged_for(tables, now, by)
    if steady_for is None:
        return ()
    over = [row for row in tables.owners if row.expires_at < now or _is_of_another_clock(row, now, steady_for)]
    return _declare_dead(tables, now, over)


def _is_of_another_clock(row: OwnerRecord, now: float, steady_for: float) -> bool:
    """A lease that ends later than any renewal can make it was given by a clock that has gone back since. Who lives has
    renewed by this clock within a lease.
    """
    return row.expires_at > now + row.lease + ONE_CLOCK_SECONDS and steady_for > row.lease + ONE_CLOCK_SECONDS


def _judged_for(tables: Tables, now: float, by: str) -> float | None:
    """For how long the judge has renewed without a gap; None for one who may not judge now."""
    row = tables.owners.get(by)
    if row is None or row.dead_at is not None or row.steady_since > now - row.lease:
        return None
    return now - row.steady_since if _is_fresh(row, now, row.lease) else None


def may_judge(tables: Tables, now: float, owner: str) -> bool:
    """Whether this owner may declare others dead."""
    return _judged_for(tables, now, owner) is not None


def confirm(tables: Tables, now: float, owner: str, by: str, reason: str | None = None) -> bool:
    """Record that the process of a dead owner has ended; False if that was known, or it is not dead."""
    row = tables.owners.get(owner)
    if row is None or row.confirmed or (row.dead_at is None and row.expires_at >= now):
        return False
    _confirmed(tables, now, row, by, reason)
    return True


def await_end(tables: Tables, owner: str) -> None:
    """An undo may have to wait until the end of this owner is confirmed."""
    row = tables.owners.get(owner)
    if row is not None:
        tables.owners.put(owner, row._replace(awaited=True))


def awaited(tables: Tables, _now: float, host: str, kernel: str | None) -> list[Awaited]:
    """Dead owners of that host for which undos may wait, and whose end nobody has confirmed."""
    near = [row for row in tables.owners if row.host == host or (kernel is not None and row.kernel == kernel)]
    found = [row for row in near if row.awaited and not row.confirmed]
    return [Awaited(row.id, row.host, row.pid, row.machine, row.kernel, row.born) for row in found[:BATCH]]


def released(tables: Tables, _now: float, owner: str) -> None:
    """Nothing waits for it any more."""
    row = tables.owners.get(owner)
    if row is not None and row.confirmed:
        tables.owners.put(owner, row._replace(awaited=False))


def served(tables: Tables, now: float, queues: dict[str, float]) -> None:
    """Note up to when the messages of each queue were served; never backwards."""
    for queue, at in queues.items():
        row = tables.queues.get(queue)
        # One that lies ahead of the clock is another clock's.
        if row is None or row.served_at < at or row.served_at > now + ONE_CLOCK_SECONDS:
            tables.queues.put(queue, (row or QueueRecord(at))._replace(served_at=at))


def freed(tables: Tables, now: float, queues: Iterable[str]) -> None:
    """A worker of these queues has nothing to do."""
    for queue in queues:
        tables.queues.put(queue, (tables.queues.get(queue) or QueueRecord(0.0))._replace(free_at=now))


def my_tick(tables: Tables, now: float, name: str, every: float) -> bool:
    """Whether it is this process's turn: at most one of all processes has it in ``every`` seconds."""
    at = tables.ticks.get(name)
    # A turn that lies further ahead than one interval was written before the clock went back.
    mine = at is None or not now - every <= at <= now + every
    if mine:
        tables.ticks.put(name, now)
    return mine


def named(tables: Tables, owner: str) -> Any:
    """An owner's row, or None."""
    return tables.owners.get(owner)
