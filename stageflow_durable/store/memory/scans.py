"""What sweeps find, and what they write without a transition. The conditions are those of ``state.recovery``,
``state.handed_back``, ``state.horizon`` and ``state.moved``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stageflow_durable.model.roster import Profile
from stageflow_durable.model.status import AT_REST, AttemptState, Phase, StrandState
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.base import STRANGERS
from stageflow_durable.store.memory import definitions, owners, slots
from stageflow_durable.store.memory.rows import AttemptRecord, Tables
from stageflow_durable.store.scans import MOVE_SECONDS, missed_of, more
from stageflow_durable.store.values import BATCH, ONE_CLOCK_SECONDS, Missed, Overdue, StrandRef, WaitingStrand
from stageflow_durable.transitions.draft import ACTIVE
from stageflow_durable.transitions.hand_back import RESTS_SECONDS, is_handed_back
from stageflow_durable.transitions.repair import has_no_wake_up
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED, StrandRow
from stageflow_durable.transitions.slots import ANSWER_SECONDS
from stageflow_durable.transitions.take import waits_for_an_end


def _in(tables: Tables, state: StrandState) -> Iterator[StrandRow]:
    return (row for row in tables.strands if row.state == state)


def _put(tables: Tables, row: StrandRow, **columns: Any) -> None:
    tables.strands.put((row.run, row.strand, row.item), row._replace(**columns))


def _ref(row: StrandRow) -> StrandRef:
    return StrandRef(row.run, row.strand, row.gen, row.stage, row.item)


# --- what there is to do ----------------------------------------------------------------------------------------------


def overdue(tables: Tables, now: float, grace: float) -> Overdue:
    """What a sweep looks after; ``grace``: how many seconds ago a waiting strand should have been woken."""
    dead = {row.id for row in tables.owners if row.dead_at is not None}
    orphans = [_ref(row) for row in _in(tables, StrandState.RUNNING) if row.owner in dead]
    late = [run.id for run in tables.runs if run.is_late(now)]
    waiting = [row for row in _in(tables, StrandState.WAITING) if _is_due(row, now, grace)]
    due = [_ref(row) for row in sorted(waiting, key=_wake_at)][:BATCH] + slots.offered(tables, now)
    queues = list(dict.fromkeys(row.queue for row in _in(tables, StrandState.READY)))
    ended = [row.id for row in tables.owners if row.awaited and row.confirmed]
    return Overdue(orphans[:BATCH], late[:BATCH], due, queues, ended[:BATCH], slots.to_tend(tables, now))


def _wake_at(row: StrandRow) -> float:
    return UNTIL_CONFIRMED if row.wake_at is None else row.wake_at


def _is_due(row: StrandRow, now: float, grace: float) -> bool:
    # Only a retry may have a message under way, with a countdown.
    return row.wake_at is not None and row.wake_at <= (now if not row.attempt else now - grace)


def next_wait(tables: Tables, now: float, grace: float) -> float | None:
    """In how many seconds the next waiting strand is to be woken, or None; ``grace`` as of :func:`overdue`."""
    found = [
        row.wake_at + (grace if row.attempt else 0.0) - now
        for row in _in(tables, StrandState.WAITING)
        if row.wake_at is not None
        and now - grace < row.wake_at < UNTIL_CONFIRMED
        and (row.attempt or row.wake_at > now)
        and not row.nudges  # what was handed back is left to the sweeps
    ]
    offer = slots.next_offer(tables, now)
    return min(found if offer is None else [*found, offer], default=None)


def next_due(tables: Tables, now: float, patience: float | None) -> float | None:
    """When a sweep would next find work; ``patience``: seconds after which an unanswered message counts as lost; None:
    none does.
    """
    moments = [row.wake_at for row in _in(tables, StrandState.WAITING) if _wake_at(row) < UNTIL_CONFIRMED]
    moments += [run.deadline for run in tables.runs if run.phase is Phase.FORWARD and not run.pivot_passed]
    for row in _in(tables, StrandState.RUNNING):
        owner = tables.owners.get(row.owner or "")
        if owner is not None:
            moments.append(owner.expires_at if owner.dead_at is None else owner.dead_at)
    for row in _in(tables, StrandState.READY):
        if patience is not None or row.published_at is None:
            moments.append((row.published_at or 0.0) + (patience or 0.0) * more(row.nudges))
    moments += [row.until for row in tables.slots if row.until is not None and row.until < UNTIL_CONFIRMED]
    moments += [
        row.offered_at + (ANSWER_SECONDS if row.offered_at <= now else 0.0)
        for row in tables.slots
        if row.offered_at is not None
    ]
    return min((moment for moment in moments if moment is not None), default=None)


# --- messages that were lost ------------------------------------------------------------------------------------------


def undelivered(
    tables: Tables,
    now: float,
    queue: str,
    depth: int | None,
    patience: float,
    blind: float,
    elsewhere: frozenset[str] = frozenset(),
) -> list[StrandRef]:
    """Ready strands whose message was lost; see ``state.recovery.undelivered``."""
    alone = patience if depth == 0 else blind
    found = [row for row in _in(tables, StrandState.READY) if row.queue == queue]
    lost = [row for row in found if _is_lost(tables, now, row, patience, alone)]
    lost.sort(key=lambda row: float("-inf") if row.published_at is None else row.published_at)
    theirs = [run.id for run in tables.runs if run.definition in elsewhere] if elsewhere else ()
    return [_ref(row) for row in lost if row.run not in theirs][:BATCH]


def _is_lost(tables: Tables, now: float, row: StrandRow, patience: float, alone: float) -> bool:
    sent = row.published_at
    if sent is None or sent > now + ONE_CLOCK_SECONDS:
        return True
    times, of = more(row.nudges), tables.queues.get(row.queue)
    # A time in the future was written by another clock and is ignored.
    ahead = now + ONE_CLOCK_SECONDS
    served_at = of.served_at if of is not None and of.served_at <= ahead else None
    free_at = of.free_at if of is not None and of.free_at is not None and of.free_at <= ahead else None
    if served_at is not None and served_at - patience * times > sent:
        return True
    waited = alone * times
    if free_at is not None and sent - free_at < waited:
        # Each publication doubles the patience; it is reset when a worker becomes free.
        waited = max(alone, sent - free_at)
    return now - sent > waited


def missed(tables: Tables, _now: float, places: Sequence[StrandRef]) -> list[Missed]:
    """The messages to publish again for these strands."""
    found = []
    for place in places:
        row, run = tables.strands.get((place.run, place.strand, place.item)), tables.runs.get(place.run)
        if row is not None and run is not None and (row.gen, row.state) == (place.gen, StrandState.READY):
            its = tables.items.get((place.run, place.item)) or run
            found.append(missed_of(row, definitions.plan_of(tables, run.definition), its.seq, run.priority))
    return found


def unpublish(tables: Tables, _now: float, nudges: tuple[Nudge, ...]) -> None:
    """The broker did not take these messages: leave them to the next sweep."""
    for nudge in nudges:
        row = tables.strands.get((nudge.run_id, nudge.strand, nudge.item))
        if row is not None and (row.gen, row.state) == (nudge.gen, StrandState.READY):
            _put(tables, row, published_at=None)


def unmoved(tables: Tables, _now: float) -> list[str]:
    """Runs that are not at rest and that nothing will ever move."""
    stands = [
        run.id for run in tables.runs if run.status not in AT_REST and _nothing_moves(tables.strands.every(run.id))
    ]
    return list(dict.fromkeys([*(row.run for row in tables.strands if has_no_wake_up(row)), *stands]))


def _nothing_moves(rows: Iterable[StrandRow]) -> bool:
    return not any(row.state in ACTIVE for row in rows)


# --- what was handed back ---------------------------------------------------------------------------------------------


def waits(tables: Tables, _now: float, run_ids: Sequence[str]) -> list[WaitingStrand]:
    """The strands of these runs that wait, with what they need of a worker."""
    found = []
    for run in filter(None, map(tables.runs.get, dict.fromkeys(run_ids))):
        for row in tables.strands.every(run.id):
            if row.state == StrandState.WAITING:
                need = definitions.need(tables, run.pipeline, run.version, run.definition, row.queue)
                found.append(WaitingStrand(run.id, row.strand, row.item, need, is_handed_back(row)))
    return found


def put_off(tables: Tables, now: float, run_ids: Sequence[str]) -> None:
    """Let what was handed back in these runs rest: no live worker knows it."""
    for run in set(run_ids):
        for row in [row for row in tables.strands.every(run) if is_handed_back(row)]:
            _put(tables, row, wake_at=now + RESTS_SECONDS)


def hasten(tables: Tables, now: float, profile: Profile) -> None:
    """Make due what was handed back and this worker knows."""
    newest = {name for name, known in profile.pipelines.items() if definitions.newest(tables, name) == known.digest}
    for row in [row for row in tables.strands if is_handed_back(row) and (row.wake_at or 0.0) > now]:
        run = tables.runs.get(row.run)
        if run is not None and (run.definition in profile.digests or run.pipeline in newest):
            _put(tables, row, wake_at=now)


# --- runs whose undos wait for the end of an owner --------------------------------------------------------------------


def runs_waiting_for(tables: Tables, _now: float, owner: str) -> list[str]:
    """Runs of which an undo waits for the end of that owner, some at a time."""
    runs = sorted({row.run for row in tables.strands if waits_for_an_end(row)})
    return [run for run in runs if any(row.owner == owner for row in lost_for_ever(tables, run))][:BATCH]


def lost_for_ever(tables: Tables, run: str) -> list[AttemptRecord]:
    """Lost attempts of a run that may act until the end of their owner is confirmed."""
    return [
        row
        for row in tables.attempts.every(run)
        if (row.direction, row.state) == (Phase.FORWARD, AttemptState.UNKNOWN)
        and (row.kill_by or 0.0) >= UNTIL_CONFIRMED
    ]


# --- the rest ---------------------------------------------------------------------------------------------------------


def strangers(tables: Tables, now: float) -> dict[str, float]:
    """By queue: how many seconds ago messages of runs that are not here were last noted."""
    found = {name: at for name, at in tables.ticks.items() if name.startswith(STRANGERS)}
    return {name.removeprefix(STRANGERS): max(0.0, now - at) for name, at in found.items()}


def move_times(tables: Tables, now: float, by: float, window: float, lease_seconds: float) -> bool:
    """The clock was found to have moved: stored times of what is under way move along, once. See ``state.moved``."""
    which = "clock moved back" if by < 0 else "clock moved ahead"
    if not owners.my_tick(tables, now, which, MOVE_SECONDS + lease_seconds):
        return False
    ahead = now + ONE_CLOCK_SECONDS
    for row in list(tables.strands):
        of = tables.items.get((row.run, row.item)) if row.item else tables.runs.get(row.run)
        changed_before = of is not None and not now - window <= of.updated_at <= ahead
        if row.state == StrandState.RUNNING:
            began_before = row.began_at is not None and not now - window <= row.began_at <= ahead
            if row.kill_by is not None and began_before:
                _put(tables, row, kill_by=row.kill_by + by)
        elif row.state == StrandState.WAITING and changed_before:
            _move_wait(tables, now, row, by)
        elif row.state == StrandState.READY and by <= 0:
            _move_message(tables, now, row)
    for name, queue in list(tables.queues.items() if by <= 0 else ()):
        moved = queue._replace(served_at=now) if queue.served_at > ahead else queue
        if moved.free_at is not None and moved.free_at > ahead:
            moved = moved._replace(free_at=now)
        tables.queues.put(name, moved)
    return True


def _move_message(tables: Tables, now: float, row: StrandRow) -> None:
    if row.published_at is not None and row.published_at > now + ONE_CLOCK_SECONDS:
        _put(tables, row, published_at=now)


def _move_wait(tables: Tables, now: float, row: StrandRow, by: float) -> None:
    if row.wake_at is None or row.wake_at >= UNTIL_CONFIRMED:
        return
    if by <= 0 and row.wake_at > now:
        _put(tables, row, wake_at=max(now, row.wake_at + by))
    elif by > 0 and row.direction == Phase.BACKWARD and row.first_at is None and row.wake_at > now - by:
        # An undo that waits until a process has been ended: it counts its time by a clock that only passes.
        _put(tables, row, wake_at=row.wake_at + by)
