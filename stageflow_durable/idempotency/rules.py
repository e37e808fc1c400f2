"""What may become of a key, as pure functions of what is written under it.

Every store follows these rules: the memory store by calling them, the SQL functions by the conditions of their atomic
statements, Redis by its scripts. The conformance suite holds them together. What a claim finds:

```
nothing, free, expired ........................ take it
other fingerprint ............................. Mismatch
done / undone ................................. Done / Undone
done, its result erased ....................... Erased
held by a lease:  running ..................... InProgress        lapsed ............. take it, with a higher fence
held by a run:    another run or stage ........ HeldByRun         this run and stage . take it, with a higher fence
```
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from stageflow_durable.clock import as_moment
from stageflow_durable.codec import as_stored, differing_texts
from stageflow_durable.errors import IdempotencyConflict, IdempotencyParamMismatch
from stageflow_durable.idempotency.store import (
    ERASED_WHY,
    Answer,
    Done,
    Erased,
    HeldByRun,
    InProgress,
    Mismatch,
    RunAnswer,
    Standing,
    Undone,
)

_NOTHING = "{}"

ERASED_FINGERPRINT, ERASED_RESULT = "0" * 64, ""
"""What stands under a key once its values were erased. No parameters have the one, and no result is saved as the other:
nothing is compared any more, and nothing is answered.
"""


class KeyState(StrEnum):
    """What is known about the work under a key. ``FREE``: released, and kept only so that fences go on rising."""

    FREE = "free"
    HELD = "held"
    DONE = "done"
    UNDONE = "undone"


class Claimant(NamedTuple):
    """A stage of a run, as the holder of a business key."""

    run_id: str
    stage: str


class KeyRecord(NamedTuple):
    """What is written under a key. Times are seconds since the epoch by the store's clock; ``expires_at`` None: not
    while it is held.

    A key is held by a lease (``lease_until``) or by an unfinished stage of a run (``holder``), never by both.
    """

    fingerprint: str
    params: str | None
    owner: str
    holder: Claimant | None
    fence: int
    state: KeyState
    result: str | None
    lease_until: float | None
    expires_at: float | None
    result_schema: int | None = None


def verdict(
    record: KeyRecord | None, now: float, fingerprint: str, params: str | None, claimant: Claimant | None = None
) -> Standing | None:
    """What stands in the way of claiming the key, or None: it is there to be taken."""
    if record is None or record.state is KeyState.FREE or _expired(record, now):
        return None
    same = as_stored(fingerprint, record.fingerprint)
    if record.fingerprint not in (same, ERASED_FINGERPRINT):
        return Mismatch(differing(record.params, params), record.holder and record.holder.run_id)
    if record.state is KeyState.HELD:
        return _held(record, now, claimant)
    return _settled(record)


def renewed(record: KeyRecord, fence: int, now: float, lease: float) -> KeyRecord | None:
    """The record with its lease extended, or None: the fence is no longer the owner's."""
    if not _owns(record, fence, now) or record.state is not KeyState.HELD:
        return None
    until = now + lease
    return record._replace(lease_until=until, expires_at=max(record.expires_at or until, until))


def completed(record: KeyRecord, fence: int, now: float, result: str, ttl: float) -> KeyRecord | None:
    """The record with its result, or None: the fence is no longer the owner's. The first result of a fence stays."""
    if not _owns(record, fence, now) or record.state is KeyState.FREE:
        return None
    if record.state is KeyState.DONE:
        return record
    return record._replace(state=KeyState.DONE, result=result, lease_until=None, expires_at=now + ttl)


def released(record: KeyRecord, fence: int, now: float, vouched: bool) -> KeyRecord | None:
    """The record with its lease ended, or None: the fence is no longer the owner's."""
    if not _owns(record, fence, now) or record.state is KeyState.DONE:
        return None
    if vouched:
        return record._replace(state=KeyState.FREE, params=None, lease_until=now)
    return record._replace(lease_until=now)


def forgotten(record: KeyRecord) -> KeyRecord:
    """The record without what it says of values. It stays taken as it was."""
    result = ERASED_RESULT if record.state is KeyState.DONE else record.result
    return record._replace(fingerprint=ERASED_FINGERPRINT, params=None, result=result)


def next_fence(previous: int, now: float) -> int:
    """Above every fence of the key before; the clock takes over where the record that held them is gone."""
    return max(previous + 1, int(now * 1000))


def differing(before: str | None, given: str | None) -> tuple[str, ...]:
    """The fields in which two encoded sets of parameters differ; a set that was left out differs in all of the
    other's.
    """
    return differing_texts(before or _NOTHING, given or _NOTHING)


def settled(key: str, answer: RunAnswer) -> Answer:
    """A store's answer to its caller: what is wrong with the key is raised.

    :raises IdempotencyParamMismatch: the key came with other parameters.
    :raises IdempotencyConflict: its work was undone, or its result was erased.
    """
    match answer:
        case Mismatch(fields, run_id):
            raise IdempotencyParamMismatch(key, fields, run_id=run_id)
        case Undone(run_id):
            raise IdempotencyConflict(key, f"its work was undone by run {run_id}; use a new key", run_id=run_id)
        case Erased(run_id):
            raise IdempotencyConflict(key, ERASED_WHY, run_id=run_id)
        case HeldByRun(run_id, stage, fence):
            return InProgress(None, None, fence, f"stage {stage} of run {run_id}")
        case _:
            return answer


def in_progress(lease_until: float, now: float, fence: int, owner: str) -> InProgress:
    """A running lease, by the store's clock."""
    return InProgress(as_moment(lease_until), lease_until - now, fence, owner)


def _owns(record: KeyRecord, fence: int, now: float) -> bool:
    # Against an owner that was silent until another took the key over, or until the record had expired.
    return record.fence == fence and not _expired(record, now)


def _expired(record: KeyRecord, now: float) -> bool:
    return record.expires_at is not None and record.expires_at <= now


def _held(record: KeyRecord, now: float, claimant: Claimant | None) -> Standing | None:
    if record.holder is not None:
        return None if record.holder == claimant else HeldByRun(*record.holder, record.fence)
    until = record.lease_until or now
    return in_progress(until, now, record.fence, record.owner) if until > now else None


def _settled(record: KeyRecord) -> Done | Undone | Erased:
    if record.state is KeyState.DONE and record.result == ERASED_RESULT:
        return Erased(record.holder.run_id if record.holder else None)
    if record.state is KeyState.DONE and record.result is not None:
        return Done(record.result, record.result_schema or 1)
    return Undone(record.holder.run_id if record.holder else record.owner)
