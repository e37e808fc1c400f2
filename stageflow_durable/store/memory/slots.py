"""Slots of limits in memory. The conditions are those of ``state.slots``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import StrandState
from stageflow_durable.model.waits import Behind
from stageflow_durable.store.memory.rows import LimitRecord, PoolRecord, Tables
from stageflow_durable.store.values import BATCH, LimitState, LimitWord, StrandRef
from stageflow_durable.transitions import slots as decisions
from stageflow_durable.transitions.change import SlotChange
from stageflow_durable.transitions.limits import waits_for_slots
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, Pool, SlotRow, StrandRow
from stageflow_durable.transitions.slots import ANSWER_SECONDS

_STANDS = (StrandState.READY, StrandState.WAITING)


def declare(tables: Tables, plans: Sequence[Plan]) -> None:
    """These are the newest definitions: their numbers count."""
    for limit in [limit for plan in plans for stage in plan.stages for limit in stage.limits]:
        row = tables.limits.get(limit.name) or LimitRecord(limit.name, 0)
        tables.limits.put(limit.name, row._replace(amount=limit.limit, per_second=limit.rate))


def load(tables: Tables, now: float, run: str, wanted: Iterable[Wanted]) -> dict[PoolId, Pool]:
    """What decisions need of the pools that the run's rows name and of those that are wanted."""
    asked = {one.pool: one for one in wanted}
    mine = {row.pool for row in tables.slots if row.run == run}
    return {pool: _pool(tables, now, pool, asked.get(pool)) for pool in sorted(mine | asked.keys())}


def _pool(tables: Tables, now: float, pool: PoolId, asked: Wanted | None = None) -> Pool:
    limit = tables.limits.get(pool.name)
    if limit is None:
        limit = LimitRecord(pool.name, 0) if asked is None else LimitRecord(pool.name, asked.limit, asked.rate)
        tables.limits.put(pool.name, limit)
    its = tables.pools.get(pool)
    if its is None:
        tables.pools.put(pool, its := PoolRecord())
    rows = tuple(row for row in tables.slots if row.pool == pool)
    held: dict[str, int] = {}
    for row in rows:
        if row.attempt and not _is_over(tables, now, row):
            held[row.turn] = held.get(row.turn, 0) + 1
    amount = limit.amount if limit.set_amount is None else limit.set_amount
    left = float(amount) if its.tokens is None else its.tokens
    paused_until = max(limit.paused_until or 0.0, its.paused_until or 0.0)
    return Pool(amount, held, rows, limit.per_second, left, its.filled_at or 0.0, paused_until)


def write(tables: Tables, change: SlotChange) -> None:
    """Write what was decided."""
    for key in change.gone:
        tables.slots.remove(key)
    for row in change.put:
        tables.slots.put(row.place, row)
    for pool, left, at in change.tokens:
        its = tables.pools.get(pool) or PoolRecord()
        tables.pools.put(pool, its._replace(tokens=left, filled_at=at))


def tend(tables: Tables, now: float, pool: PoolId) -> tuple[SlotRow, ...]:
    """Free the slots of what cannot act any more and of what is gone, and offer what is free; returns to whom."""
    for row in [row for row in tables.slots if row.pool == pool]:
        if _is_leaked(tables, row) or _is_over(tables, now, row):
            tables.slots.remove(row.place)
        elif not row.attempt and (_is_unanswered(row, now) or (row.offered_at or 0.0) > now):
            # A strand that was not even woken is offered to again, one that was asks by itself.
            stands = _strand(tables, row)
            waits = stands is not None and stands.state == StrandState.WAITING
            tables.slots.put(row.place, row._replace(offered_at=None, short=waits))
    change = decisions.offers({pool: _pool(tables, now, pool)}, now)
    if change is None:
        return ()
    write(tables, change)
    return change.woken


def _strand(tables: Tables, row: SlotRow) -> StrandRow | None:
    found = tables.strands.get((row.run, row.strand, 0))
    return found if found is not None and (found.stage, found.gen) == (row.stage, row.gen) else None


def _is_leaked(tables: Tables, row: SlotRow) -> bool:
    strand = _strand(tables, row)
    if not row.attempt:
        return strand is None or strand.state not in _STANDS
    runs = strand is not None and (strand.state, strand.attempt) == (StrandState.RUNNING, row.attempt)
    return row.until is None and not runs


def _is_over(tables: Tables, now: float, row: SlotRow) -> bool:
    if row.until is None:
        return False
    owner = tables.owners.get(row.owner or "")  # one without a row was pruned; those that a slot waits for are not
    return row.until <= now or owner is None or owner.confirmed


def _is_unanswered(row: SlotRow, now: float) -> bool:
    return row.offered_at is not None and row.offered_at <= now - ANSWER_SECONDS


def behind(tables: Tables, now: float, run: str, stage: str) -> list[Behind]:
    """Of which limits a stage waits for slots."""
    found = []
    for mine in [row for row in tables.slots if (row.run, row.stage, row.attempt, row.short) == (run, stage, 0, True)]:
        pool = _pool(tables, now, mine.pool)
        held = [row for row in pool.rows if row.attempt and not _is_over(tables, now, row)]
        lost = sorted({str(row.owner) for row in held if (row.until or 0.0) >= UNTIL_CONFIRMED})
        order = mine.rank, mine.since
        before = sum(1 for row in pool.rows if not row.attempt and row.short and (row.rank, row.since) < order)
        times = pool.rate, mine.offered_at, pool.paused_until
        found.append(Behind(mine.pool, pool.limit, len(held), before, tuple(lost), *times))
    return sorted(found, key=lambda one: one.pool)


# --- what people say and see ------------------------------------------------------------------------------------------


def say(tables: Tables, word: LimitWord) -> list[PoolId] | None:
    """Write what a person says of a limit; returns the pools that it is about, None where nothing has the name."""
    limit = tables.limits.get(word.name)
    if limit is None:
        return None
    if word.key is not None:
        pool = PoolId(word.name, word.key)
        its = tables.pools.get(pool) or PoolRecord()
        if not (word.longer and (its.paused_until or 0.0) >= (word.paused_until or 0.0)):
            tables.pools.put(pool, its._replace(paused_until=word.paused_until or None, said=word.said))
        return [pool]
    if word.longer and (limit.paused_until or 0.0) >= (word.paused_until or 0.0):
        return []
    if word.amount is not None:
        limit = limit._replace(set_amount=word.amount or None)
    if word.paused_until is not None:
        limit = limit._replace(paused_until=word.paused_until or None)
    tables.limits.put(word.name, limit._replace(said=word.said))
    return sorted(pool for pool, _its in tables.pools.items() if pool.name == word.name)


def states(tables: Tables, now: float) -> list[LimitState]:
    """How every limit stands, for each key that is in use, or paused."""
    used = {row.pool for row in tables.slots} | {pool for pool, its in tables.pools.items() if its.paused_until}
    named = {pool.name for pool in used}
    found = [*used, *(PoolId(limit.name) for limit in tables.limits if limit.name not in named)]
    return [_state(tables, now, pool) for pool in sorted(found)]


def _state(tables: Tables, now: float, pool: PoolId) -> LimitState:
    limit, its = tables.limits.get(pool.name), tables.pools.get(pool) or PoolRecord()
    assert limit is not None, "a pool is of a limit"
    seen = _pool(tables, now, pool)
    waiting = sum(1 for row in seen.rows if not row.attempt and row.short)
    paused = seen.paused_until if seen.paused_until > now else None
    held = sum(seen.held.values())
    return LimitState(pool, seen.limit, limit.amount, seen.rate, held, waiting, paused, its.said or limit.said)


# --- what sweeps find -------------------------------------------------------------------------------------------------


def offered(tables: Tables, now: float) -> list[StrandRef]:
    """Strands to which a slot was offered, and that were not woken yet."""
    found = [
        (row, _strand(tables, row))
        for row in tables.slots
        if (row.offered_at or UNTIL_CONFIRMED) <= now and not row.attempt
    ]
    waiting = [
        StrandRef(row.run, row.strand, row.gen, row.stage)
        for row, strand in found
        if strand is not None and strand.state == StrandState.WAITING and waits_for_slots(strand)
    ]
    return list(dict.fromkeys(waiting))[:BATCH]


def to_tend(tables: Tables, now: float) -> list[PoolId]:
    """Pools with slots of what cannot act any more, or with offers that nobody took."""
    found = (row.pool for row in tables.slots if _is_over(tables, now, row) or _is_unanswered(row, now))
    return list(dict.fromkeys(found))[:BATCH]


def untended(tables: Tables, _now: float) -> list[PoolId]:
    """Pools with a slot that no attempt holds, or with a free one that nobody was offered."""
    found = (row.pool for row in tables.slots if _is_leaked(tables, row) or _is_free_for(tables, row))
    return list(dict.fromkeys(found))[:BATCH]


def _is_free_for(tables: Tables, row: SlotRow) -> bool:
    if row.attempt or not row.short or row.offered_at is not None:
        return False
    taken = sum(1 for one in tables.slots if one.pool == row.pool and (one.attempt or one.offered_at is not None))
    limit = tables.limits.get(row.name)
    return limit is not None and limit.per_second is None and taken < (limit.set_amount or limit.amount)


def next_offer(tables: Tables, now: float) -> float | None:
    """In how many seconds the next slot, or token, is there for somebody who waits for it; None: nobody does."""
    return min((at - now for at in (row.offered_at or 0.0 for row in tables.slots) if at > now), default=None)
