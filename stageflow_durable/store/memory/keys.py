"""Business keys: ``idempotency.rules`` says what a claim finds, and the functions here what a run makes of its own."""

from __future__ import annotations

from stageflow_durable.codec import as_stored
from stageflow_durable.idempotency.keys import address
from stageflow_durable.idempotency.rules import Claimant, KeyRecord, KeyState, forgotten, next_fence, verdict
from stageflow_durable.idempotency.store import Claimed, RunAnswer
from stageflow_durable.store.memory.rows import KeyRow, Tables
from stageflow_durable.store.values import BusinessKey
from stageflow_durable.transitions.change import KeyChange, KeyEnd
from stageflow_durable.transitions.rows import HeldKey


def claim(tables: Tables, now: float, key: BusinessKey, run: str, stage: str) -> RunAnswer:
    """Take a key for a stage of a run; it does not expire under the stage. Raises InvalidKey."""
    where, claimant = address(key.scope, key.key), Claimant(run, stage)
    before = tables.keys.get(where)
    record = None if before is None else before.record
    standing = verdict(record, now, key.fingerprint, key.params, claimant)
    if standing is not None:
        return standing
    # A key stays bound in the version of its row.
    fingerprint = key.fingerprint if record is None else as_stored(key.fingerprint, record.fingerprint)
    fence = next_fence(0 if record is None else record.fence, now)
    taken = KeyRecord(fingerprint, key.params, f"run {run}", claimant, fence, KeyState.HELD, None, None, None)
    tables.keys.put(where, KeyRow(taken, key.ttl_seconds))
    return Claimed(fence)


def end(tables: Tables, now: float, run: str, change: KeyChange) -> None:
    """Write what becomes of a key, if the stage has it."""
    key = change.key
    where = key.client_id, key.operation, key.key
    row = tables.keys.get(where)
    # Against another run or stage; a zombie of this stage was refused by the run's own fence before.
    if row is None or row.record.holder != Claimant(run, key.stage):
        return
    record, until = row.record, now + key.ttl_seconds
    if change.end is KeyEnd.UNDONE:
        if record.state in (KeyState.HELD, KeyState.DONE):
            record = record._replace(state=KeyState.UNDONE, result=None, expires_at=until)
    elif record.state is not KeyState.HELD:
        return
    elif change.end is KeyEnd.FINISHED:
        record = record._replace(
            state=KeyState.DONE, expires_at=until, result=change.delta, result_schema=change.schema
        )
    elif change.end is KeyEnd.RELEASED:
        record = record._replace(state=KeyState.FREE, params=None, expires_at=now)
    else:
        record = record._replace(expires_at=until)
    tables.keys.put(where, row._replace(record=record))


def erase(tables: Tables, run: str) -> None:
    """Erase what the keys of a run keep of its values; they stay taken."""
    for where, row in list(tables.keys.items()):
        record = row.record
        if record.holder is not None and record.holder.run_id == run:
            tables.keys.put(where, row._replace(record=forgotten(record)))


def held_by(tables: Tables, run: str) -> tuple[HeldKey, ...]:
    """The keys that stages of a run hold."""
    return tuple(
        HeldKey(*where, row.record.holder.stage, row.keep_seconds)
        for where, row in tables.keys.items()
        if row.record.state is KeyState.HELD and row.record.holder is not None and row.record.holder.run_id == run
    )
