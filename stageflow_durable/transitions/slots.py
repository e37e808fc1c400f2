"""Slots of limits: who gives one up, who takes one, and to whom one that is free is offered. Pure.

Slots follow their strands. A draft that is done is compared with the facts: an attempt that is over gives up what it
held, and a strand that waits no more is forgotten, whichever decision led there. What a lost attempt held stays taken
until that cannot act any more.

Who finds no slot holds nothing and waits. Each one that comes free is offered to whoever is next: that one asks again
for all that it needs, and what it could not use is offered on. The lower rank goes first, then whose turn has the
fewest, then the older; but who was passed over for :data:`PASSED_OVER_SECONDS` goes before all younger ones, and one
slot is kept free for it where it only waits for another limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from stageflow_durable.model.limits import PoolId, Wanted
from stageflow_durable.model.plan import Plan
from stageflow_durable.model.status import Phase, StrandState
from stageflow_durable.model.work import RunFacts
from stageflow_durable.transitions.change import SlotChange
from stageflow_durable.transitions.facts import Facts
from stageflow_durable.transitions.rows import Pool, SlotKey, SlotRow, StrandRow

PASSED_OVER_SECONDS = 60.0
"""How long younger ones may be let past one that waits."""

CLOCK_SECONDS = 1.0
"""How far ahead a time may lie that another transaction wrote by the same clock."""

NEARLY = 1e-6
"""A token that is there but for a rounding counts."""

ANSWER_SECONDS = 10.0
"""How long an offered slot is kept for whoever is to take it: nobody may serve its queue."""

_STANDS = (StrandState.READY, StrandState.WAITING)


class Drafted(Protocol):
    """What is asked of a draft (``transitions.draft``)."""

    facts: Facts
    clock: float
    slots: Slots | None

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def run(self) -> RunFacts:
        """The run's row as drafted."""

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The definitions by which the run went, and goes."""

    def strand(self, name: str, /) -> StrandRow:
        """One strand as drafted."""

    def changed_strands(self) -> list[tuple[StrandRow, StrandRow]]:
        """The strands that are written, each as it was and as drafted."""

    def may_act_until(self, row: StrandRow, /) -> float | None:
        """Until when the attempt that ran on the strand may act although it is over."""

    def next_number(self, row: StrandRow, /) -> int:
        """The number of the next attempt of the strand's stage."""


def of(draft: Drafted, needs: tuple[Wanted, ...] = ()) -> Slots:
    """The slots as drafted. Raises NotLoaded where a strand's may change and they are not loaded."""
    if draft.slots is None:
        draft.slots = Slots(draft)
    draft.slots.follow(needs)
    return draft.slots


class Slots:
    """The slots of a run's draft."""

    def __init__(self, draft: Drafted) -> None:
        self._draft = draft
        self._pools: Pools | None = None

    def follow(self, needs: tuple[Wanted, ...] = ()) -> None:
        """Free what ended attempts held, and forget those that wait no more."""
        left = [*_left(self._draft)]
        if self._pools is None and (left or needs):
            # All that this decision may touch is locked at once: what is wanted, and what the run's rows name.
            self._pools = Pools(self._draft.facts.slots(needs), self._draft.clock)
        if self._pools is None:
            return
        for before, until in left:
            for row in self._pools.of_strand(self._draft.id, before.strand):
                if row.attempt and (row.stage, row.attempt) == (before.stage, before.attempt):
                    self._pools.free(row, until)
                elif not row.attempt and not _still_waits(self._draft, row):
                    self._pools.drop(row)

    def ask(self, row: StrandRow, needs: tuple[Wanted, ...], owner: str) -> tuple[Wanted, ...]:
        """Take all of these for the strand; else queue it, and return those of which there was none."""
        pools, run, clock = self._pools, self._draft.run, self._draft.clock
        assert pools is not None, "what is needed was loaded"
        before = {one.pool: one for one in pools.of_strand(run.id, row.strand) if not one.attempt}
        since = min((one.since for one in before.values()), default=clock)
        turn = next((one.pool.text for one in needs if one.pool.key), "")
        blank = SlotRow("", "", run.id, row.strand, row.stage, 0, row.gen, None, run.priority or 0, since, turn)
        mine = {}
        for one in needs:
            there = before.get(one.pool, blank)
            offer: dict[str, Any] = {"offered_at": there.offered_at, "passed_at": there.passed_at}
            mine[one.pool] = blank._replace(name=one.pool.name, key=one.pool.key, **offer)
        missing = tuple(one for one in needs if not pools.has_room(mine[one.pool]))
        for old in before.values():
            pools.drop(old)
        for one in needs:
            if missing:
                short = one in missing
                again = pools.next_turn(mine[one.pool]) if short else None
                pools.put(mine[one.pool]._replace(short=short, behind=missing[0].pool.text, offered_at=again))
            else:
                held = mine[one.pool]._replace(attempt=self._draft.next_number(row), owner=owner)
                pools.take(held._replace(offered_at=None, passed_at=None))
        return missing

    def settled(self) -> SlotChange | None:
        """What becomes of the slots, with what is offered to those that wait; None: nothing."""
        return None if self._pools is None else self._pools.offered()


def _left(draft: Drafted) -> Iterator[tuple[StrandRow, float | None]]:
    """Strands that stood at a stage with limits and do not any more, each with until when its attempt may still act."""
    for before, after in draft.changed_strands():
        if before.direction != Phase.FORWARD:
            continue
        if not any(before.stage in plan.by_name and plan.by_name[before.stage].limits for plan in draft.plans):
            continue
        same = (after.stage, after.gen) == (before.stage, before.gen)
        if before.state == StrandState.RUNNING:
            if not (same and after.state == StrandState.RUNNING and after.attempt == before.attempt):
                yield before, draft.may_act_until(before)
        elif before.state in _STANDS and not (same and after.state in _STANDS):
            yield before, None


def _still_waits(draft: Drafted, row: SlotRow) -> bool:
    after = draft.strand(row.strand)
    return (after.stage, after.gen) == (row.stage, row.gen) and after.state in _STANDS


# --- pools ------------------------------------------------------------------------------------------------------------


class Pools:
    """Several pools under their locks. Pure: what changes is collected."""

    def __init__(self, pools: Mapping[PoolId, Pool], clock: float) -> None:
        self._limits = {pool: found.limit for pool, found in pools.items()}
        self._rates = {pool: found.rate for pool, found in pools.items() if found.rate is not None}
        self._tokens = {pool: _tokens(pools[pool], clock) for pool in self._rates}
        self._filled_at = {pool: _filled_at(pools[pool], clock) for pool in self._rates}
        self._paused_until = {pool: found.paused_until for pool, found in pools.items()}
        self._taken: dict[PoolId, None] = {}
        self._held = {pool: dict(found.held) for pool, found in pools.items()}
        self._rows = {row.place: row for found in pools.values() for row in found.rows}
        self._clock = clock
        self._put: dict[SlotKey, SlotRow] = {}
        self._gone: dict[SlotKey, None] = {}

    def of_strand(self, run: str, strand: str) -> list[SlotRow]:
        """What the strand holds and waits for."""
        return [row for row in self._rows.values() if (row.run, row.strand) == (run, strand)]

    def put(self, row: SlotRow) -> None:
        """Put a row in the place of the one that is there."""
        self._rows[row.place] = self._put[row.place] = row
        self._gone.pop(row.place, None)

    def drop(self, row: SlotRow) -> None:
        """Delete a row of one that waits."""
        del self._rows[row.place]
        self._put.pop(row.place, None)
        self._gone[row.place] = None

    def take(self, row: SlotRow) -> None:
        """Take a slot. Older ones that wait for the same are passed over."""
        if row.pool in self._rates:
            self._tokens[row.pool] -= 1.0
            self._taken[row.pool] = None
        else:
            self.put(row)
            held = self._held[row.pool]
            held[row.turn] = held.get(row.turn, 0) + 1
        for other in self._waiting(row.pool):
            if other.since < row.since and other.passed_at is None:
                self.put(other._replace(passed_at=self._clock))

    def free(self, row: SlotRow, until: float | None) -> None:
        """Give up a slot. ``until``: its attempt was lost and may act until then, so it stays taken for as long."""
        if row.until is not None:
            return  # lost before: it is free once that cannot act any more
        if until is not None:
            self.put(row._replace(until=until))
            return
        self.drop(row)
        self._held[row.pool][row.turn] -= 1

    def has_room(self, row: SlotRow) -> bool:
        """Whether there is a slot for this one, besides those that are held, offered to others before it, or kept for
        whoever waited for too long.
        """
        if self._paused_until[row.pool] > self._clock:
            return False
        others = self._others(row)
        offered = [other for other in others if self._is_offered(other) and self._is_ahead(other, row)]
        return self._free(row, others) > len(offered)

    def _others(self, row: SlotRow) -> list[SlotRow]:
        return [other for other in self._waiting(row.pool) if (other.run, other.strand) != (row.run, row.strand)]

    def _free(self, row: SlotRow, others: Iterable[SlotRow]) -> int:
        kept = {
            other.behind
            for other in others
            if not other.short and other.offered_at is None and self._is_overdue(other) and other.since < row.since
        }
        if row.pool in self._rates:
            return math.floor(self._tokens[row.pool] + NEARLY) - len(kept)
        return self._limits[row.pool] - sum(self._held[row.pool].values()) - len(kept)

    def offered(self) -> SlotChange | None:
        """Offer what is free to those that are next."""
        woken = [row for pool in sorted(self._limits) for row in self._offers(pool)]
        tokens = tuple((pool, self._tokens[pool], self._filled_at[pool]) for pool in self._taken)
        if not (self._put or self._gone or tokens):
            return None
        return SlotChange(tuple(self._put.values()), tuple(self._gone), tuple(woken), tokens)

    def _offers(self, pool: PoolId) -> Iterator[SlotRow]:
        waiting = [row for row in self._waiting(pool) if row.short and row.offered_at is None]
        counts = dict(self._held[pool])
        while waiting:
            row = min(waiting, key=lambda one: self._order(one, counts))
            others = self._others(row)
            already = sum(map(self._is_offered, others))
            if pool not in self._rates and self._free(row, others) <= already:
                return
            waiting.remove(row)
            counts[row.turn] = counts.get(row.turn, 0) + 1
            offered = row._replace(offered_at=self._time_of(pool, already))
            self.put(offered)
            if offered.offered_at == self._clock:
                yield offered

    def _time_of(self, pool: PoolId, before: int) -> float:
        """When a slot, or a token, is there for one that has so many before it."""
        soonest, rate = max(self._clock, self._paused_until[pool]), self._rates.get(pool)
        if rate is None:
            return soonest
        missing = before + 1 - self._tokens[pool]
        return max(soonest, self._clock + missing / rate)

    def _waiting(self, pool: PoolId) -> list[SlotRow]:
        return [row for row in self._rows.values() if not row.attempt and row.pool == pool]

    def _is_offered(self, row: SlotRow) -> bool:
        return row.offered_at is not None and row.offered_at > self._clock - ANSWER_SECONDS

    def _is_overdue(self, row: SlotRow) -> bool:
        return row.passed_at is not None and row.passed_at <= self._clock - PASSED_OVER_SECONDS

    def next_turn(self, row: SlotRow) -> float | None:
        """When one that came at its time and found no token comes again: as soon as there is one, and not behind those
        that were told a later time. None: it was told none, or waits for a slot.
        """
        if row.offered_at is None or row.pool not in self._rates:
            return None
        late = [other for other in self._others(row) if self._is_offered(other) and self._is_ahead(other, row)]
        return self._time_of(row.pool, len(late))

    def _is_ahead(self, one: SlotRow, other: SlotRow) -> bool:
        """Whether ``one``, to which something is offered, is served before ``other``: it was told an earlier time, or
        goes before whoever was told none.
        """
        if one.offered_at is None or other.offered_at is None or one.pool not in self._rates:
            return self._goes_before(one, other)
        return (one.offered_at, one.place) < (other.offered_at, other.place)

    def _goes_before(self, one: SlotRow, other: SlotRow) -> bool:
        """Whether ``one``, to which a slot is offered, goes before ``other``."""
        if self._is_overdue(one) != self._is_overdue(other):
            overdue, rest = (one, other) if self._is_overdue(one) else (other, one)
            if overdue.since < rest.since:
                return overdue is one
        return (one.rank, one.since, one.run, one.strand) < (other.rank, other.since, other.run, other.strand)

    def _order(self, row: SlotRow, counts: Mapping[str, int]) -> tuple[bool, int, int, float, str, str]:
        overdue = self._is_overdue(row)
        return (not overdue, 0 if overdue else row.rank, counts.get(row.turn, 0), row.since, row.run, row.strand)


def _tokens(pool: Pool, clock: float) -> float:
    """How many tokens there are at ``clock``. A time that lies further ahead was written before the clock went back."""
    ahead = pool.filled_at > clock + CLOCK_SECONDS
    gained = 0.0 if ahead else max(0.0, clock - pool.filled_at) * (pool.rate or 0.0)
    return min(float(pool.limit), pool.tokens + gained)


def _filled_at(pool: Pool, clock: float) -> float:
    return clock if pool.filled_at > clock + CLOCK_SECONDS else max(pool.filled_at, clock)


def offers(pools: Mapping[PoolId, Pool], clock: float) -> SlotChange | None:
    """Offer what is free to those that are next, where nothing else happened: somebody cannot act any more, or there
    are more slots than before.
    """
    return Pools(pools, clock).offered()
