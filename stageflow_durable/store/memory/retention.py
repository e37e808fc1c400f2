"""Deleting runs that ended long ago. What stays is a tombstone: their key, and the head of their history."""

from __future__ import annotations

from stageflow_durable.idempotency.rules import KeyState
from stageflow_durable.model.status import StrandState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.store.memory import sinks
from stageflow_durable.store.memory.rows import Tables, TombstoneRecord
from stageflow_durable.store.values import BATCH, KEY_SECONDS, PRUNED, TRACES, UNTOLD_SECONDS, Pruned
from stageflow_durable.store.vouched import tombstone_code


def prune(
    tables: Tables,
    now: float,
    audit_key: bytes,
    older_than_seconds: float,
    *,
    batch: int = BATCH,
    key_seconds: float = KEY_SECONDS,
) -> Pruned:
    """Delete at most ``batch`` runs that ended before, and expired business keys; the runs' own keys stay taken for
    ``key_seconds``.
    """
    for where, key in list(tables.keys.items()):
        if key.record.expires_at is not None and key.record.expires_at < now:
            tables.keys.remove(where)
    ended = _ended(tables, now, older_than_seconds)[:batch]
    for run in ended:
        _replace_by_tombstone(tables, now, audit_key, run)
    _forget(tables, now, now - older_than_seconds, now - key_seconds)
    return Pruned(len(ended), len(ended))


def prunable(tables: Tables, now: float, older_than_seconds: float) -> int:
    """How many runs there are to prune."""
    return len(_ended(tables, now, older_than_seconds))


def _ended(tables: Tables, now: float, older_than: float) -> list[RunFacts]:
    """Runs that ended for good and long ago: by status, then by time."""
    then = now - older_than
    holding = {
        row.record.holder.run_id
        for row in tables.keys
        if row.record.holder is not None
        and row.record.state is KeyState.HELD  # in doubt, and only the run can settle it
        and (row.record.expires_at is None or row.record.expires_at > now)
    }
    found = [
        run
        for run in tables.runs
        if run.status in PRUNED
        and run.created_at < then
        and run.finished_at is not None
        and run.finished_at < then
        and run.id not in holding
        and not (run.finished_at > now - UNTOLD_SECONDS and sinks.is_untold(tables, run.id))
    ]
    return sorted(found, key=lambda run: (PRUNED.index(run.status), run.created_at))


def _replace_by_tombstone(tables: Tables, now: float, audit_key: bytes, run: RunFacts) -> None:
    kept = (run.client_id, run.pipeline, run.key, run.fingerprint, run.status, run.seq, run.head)
    stone = TombstoneRecord(run.id, *kept, run.finished_at or now, now)
    tables.tombstones.put(run.id, stone._replace(mac=tombstone_code(audit_key, stone._asdict())))
    tables.forget_events(run.id)
    for part in tables.of_runs:
        part.forget(run.id)
    tables.runs.remove(run.id)
    if run.key is not None:
        key = run.client_id, run.pipeline, run.key
        tables.keys_of_runs.remove(key)
        tables.keys_of_tombstones.put(key, run.id)


def _forget(tables: Tables, now: float, dead_before: float, laid_before: float) -> None:
    """Tombstones that outlived their time, owners who died long ago and left nothing behind, and what they knew."""
    for stone in [stone for stone in tables.tombstones if stone.pruned_at < laid_before]:
        tables.tombstones.remove(stone.run)
        tables.keys_of_tombstones.remove((stone.client_id, stone.pipeline, stone.key or ""))
    busy = {row.owner for row in tables.strands if row.state == StrandState.RUNNING}
    awaited = {row.owner for row in tables.slots if row.until is not None and row.until > now}
    for owner in [row for row in tables.owners if row.dead_at is not None and row.dead_at < dead_before]:
        if owner.id not in busy and owner.id not in awaited:
            tables.owners.remove(owner.id)
    used = {row.pool for row in tables.slots}
    for pool, its in list(tables.pools.items()):
        if pool not in used and (its.paused_until or 0.0) <= now and (its.filled_at or 0.0) < dead_before:
            tables.pools.remove(pool)
    named = {row.profile for row in tables.owners}
    for profile in [row for row in tables.profiles if row.seen_at < dead_before and row.id not in named]:
        tables.profiles.remove(profile.id)


def forget_traces(tables: Tables, now: float, older_than_seconds: float) -> int:
    """Delete where attempts raised that ended before and what they logged, some at a time; returns of how many."""
    kept = [row for row in tables.attempts if row.trace is not None or row.log is not None]
    old = [row for row in kept if row.ended_at < now - older_than_seconds]
    for row in old[:TRACES]:
        tables.attempts.put((row.run, row.stage, row.item, row.direction, row.n), row._replace(trace=None, log=None))
    return len(old[:TRACES])
