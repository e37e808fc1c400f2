"""The recovery sweep: the same in the beat task, in every worker and in ``stageflow sweep``. Any number may run at the
same time.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.attempt_log import log_deaths, log_ended, log_nobody, log_repaired, log_taken_over
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.processes import has_ended, kernel
from stageflow_durable.engine.redaction import is_sql, message_of
from stageflow_durable.errors import BrokerUnavailable, RunBusy, StageflowError, StoreUnavailable
from stageflow_durable.masking import masking
from stageflow_durable.model.limits import PoolId
from stageflow_durable.model.roster import Missing, Roster
from stageflow_durable.model.run import SweepReport
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings.values import TRACE_SECONDS, Settings
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import BATCH, StrandRef

log = masking(logging.getLogger("stageflow.recover"))
T = TypeVar("T")
R = TypeVar("R")

BLIND_SECONDS = 60.0
"""How old a message must be to count as lost if the broker cannot say how many messages wait."""

BACKLOG_SECONDS = 600.0
"""The same if it says that some wait: otherwise other work on the queue would hide a lost message forever."""


TELL_SECONDS = 60.0
"""How often all workers together log that no live worker can carry some runs."""

PROVE_SECONDS = 30.0
"""How often one of all processes looks for runs that nothing would ever move."""

ROUNDS = 4
"""Batches of one kind in one sweep; more would delay the other kinds for too long."""


LOOK_SECONDS = 0.02
"""The least time between two looks for what is due: what becomes due in quick succession is woken together."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of a sweep in seconds. ``lease``: of owners. ``grace``: how late a retry may be before the sweep wakes it,
    since its own message may be under way. ``lost``: how old a message must be to count as lost once its queue is
    empty. ``max_lost``: the number of lost attempts at one stage that parks its run.
    ``traces``: how long tracebacks are kept.
    """

    lease: float
    grace: float = 0.1
    lost: float = 1.0
    max_lost: int = 5
    traces: float = TRACE_SECONDS

    @classmethod
    def of(cls, settings: Settings) -> Patience:
        """Those that the settings say."""
        return cls(settings.lease_seconds, max_lost=settings.max_recoveries, traces=settings.traceback_seconds)


class Sweeper:
    """Finds runs that are stuck and moves them on. ``broker``: where it publishes, as workers name it; what only
    workers of another broker can take is left to their sweeps.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        patience: Patience,
        judge: Callable[[], str | None] | None = None,
        *,
        broker: str | None = None,
    ) -> None:
        """``judge``: returns the owner that may declare others dead now, or None; left out: the caller has no lease."""
        self._store = store
        self._publisher = publisher
        self._patience = patience
        self._judge = judge
        self._broker = broker
        self._roster = Roster()
        self._broker_away = False
        self._moved: tuple[float, float] | None = None

    def clock_moved(self, by: float, within: float) -> None:
        """The database's clock has moved by ``by`` seconds during the last ``within`` seconds: the next sweep moves the
        stored times of unfinished work by as much.
        """
        self._moved = by, within

    def _follow_clock(self) -> None:
        if self._moved is not None:
            self._store.move_times(*self._moved, self._patience.lease)
            self._moved = None

    def sweep(self) -> SweepReport:
        """Sweep once. Raises StoreUnavailable; a run that cannot be handled is reported, and the others go on."""
        problems: list[str] = []
        self._follow_clock()
        dead = self._declare_dead()
        overdue = self._store.overdue(self._patience.grace)
        self._roster = self._store.roster() if any(overdue) else self._roster
        taken = sum(self._each(overdue.orphans, self._take_one, problems))
        late = sum(self._each(overdue.late, self._expire, problems))
        released = sum(map(len, self._each(overdue.ended, self.release, problems)))
        released += sum(self._each(overdue.pools, self._tend, problems))
        woken = self._wake(self._worth_waking(overdue.due), problems)
        nudged = self._nudge(overdue.queues, problems)
        repaired = self._repair(problems)
        return SweepReport(len(dead), taken, woken, nudged, late, tuple(problems), released, repaired)

    def _repair(self, problems: list[str]) -> int:
        """Prove now and then that something will move every run that is not at rest, and repair those that it will
        not.
        """
        if not self._store.my_tick("wake-ups", PROVE_SECONDS):
            return 0
        self._store.forget_traces(self._patience.traces)
        tended = sum(self._each(self._store.untended(), self._tend, problems))
        return tended + sum(self._each(self._store.unmoved(), self._repair_one, problems))

    def _tend(self, pool: PoolId) -> int:
        nudges = self._store.tend(pool)
        self._deliver(nudges)
        return int(bool(nudges))

    def _repair_one(self, run_id: str) -> int:
        nudges = self._store.repair(run_id)
        if nudges is None:
            return 0  # it has moved meanwhile
        log_repaired(run_id)
        self._deliver(nudges)
        return 1

    def sweep_in_turn(self, every: float) -> SweepReport | None:
        """Sweep unless another process did so within ``every`` seconds. Processes that may not judge yet take turns of
        their own: else new workers could take all turns for a whole lease, and nobody would be declared dead.
        """
        judges = self._judge is None or self._judge() is not None
        turn = "sweep" if judges else "sweep of newcomers"
        # Each broker has turns of its own: else the sweeps of one broker could keep those of another from running.
        mine = self._store.my_tick(turn if self._broker is None else f"{turn} at {self._broker}"[:255], every)
        return self.sweep() if mine else None

    def wake_on_time(self) -> float | None:
        """Wake what is due now, between two sweeps; returns in how many seconds the next wait is due, or None."""
        due = self._store.overdue(self._patience.grace).due
        if due:
            self._roster = self._store.roster()
            self._wake(self._worth_waking(due), [])
        return self.next_wait()

    def next_wait(self) -> float | None:
        """In how many seconds the next wait is due, or None if nothing waits for a time."""
        soonest = self._store.next_wait(self._patience.grace)
        return None if soonest is None else max(soonest, LOOK_SECONDS)

    def _declare_dead(self) -> tuple[str, ...]:
        """Declare owners dead whose lease ran out. A caller without a lease waits one lease longer: it cannot know
        whether all owners were cut off together.
        """
        if self._judge is None:
            dead = self._store.mark_expired(self._patience.lease)
        else:
            judge = self._judge()
            dead = () if judge is None else self._store.judge(judge)
        log_deaths(dead, "its lease ran out")
        return dead

    def process_killed(self, boot: str, pid: int) -> int:
        """A process has ended, as its parent saw: take its work at once. Returns how many strands were taken."""
        dead = self._store.mark_killed(boot, pid)
        log_deaths(dead, f"its process {pid} has ended")
        orphans = self._store.overdue(self._patience.grace).orphans if dead else []
        self._roster = self._store.roster() if orphans else self._roster
        return sum(self._each(orphans, self._take_one, []))

    def confirm_ended(self) -> None:
        """Confirm the end of processes of this host for which undos wait, if they have ended."""
        host = socket.gethostname()
        for owner in self._store.awaited(host, kernel()):
            if has_ended(owner, host) and self._store.confirm(owner.id, f"another process of {host}"):
                log_ended(owner)

    def release(self, owner: str) -> list[str]:
        """Let the undos begin that waited for this owner, whose end is confirmed; returns their runs."""
        found: list[str] = []
        while waiting := self._store.runs_waiting_for(owner):
            for run in waiting:
                self._deliver(self._store.release(run, owner))
            found += waiting
        self._store.released(owner)
        return found

    def _take_one(self, place: StrandRef) -> int:
        nudges = self._store.take(place, self._patience.max_lost)
        if nudges is None:
            return 0
        log_taken_over(place, self._store.facts(place.run))
        self._deliver(nudges)
        return 1

    def _expire(self, run_id: str) -> int:
        self._deliver(self._store.expire(run_id))
        return 1

    def _deliver(self, nudges: tuple[Nudge, ...]) -> None:
        theirs = tuple(nudge for nudge in nudges if not self._speaks_for(nudge.queue))
        if theirs:
            self._store.unpublish(theirs)
        publish(self._store, self._publisher, tuple(nudge for nudge in nudges if nudge not in theirs))

    def _speaks_for(self, queue: str, definitions: frozenset[str] | None = None) -> bool:
        return self._broker is None or self._roster.speaks_for(self._broker, queue, definitions)

    def _worth_waking(self, due: list[StrandRef]) -> list[StrandRef]:
        """Leave out what another broker's workers take, and what was handed back and no live worker knows yet."""
        waits = self._store.waits([place.run for place in due]) if due else []
        theirs = {one[:3] for one in waits if not self._speaks_for(one.need.queue, one.need.definitions)}
        nobodys = {}
        for one in waits:
            missing = self._roster.missing(one.need) if one.handed_back else None
            if missing is not None:
                nobodys[one[:3]] = missing
        if nobodys:
            self._store.put_off(sorted({run for run, *_strand in nobodys}))
            for missing in set(nobodys.values()):
                self._log_missing(missing)
        left = theirs | nobodys.keys()
        return [place for place in due if (place.run, place.strand, place.item) not in left]

    def _log_missing(self, missing: Missing) -> None:
        """Log it, once a minute in one of all workers."""
        if self._store.my_tick(f"told: {missing.message}"[:255], TELL_SECONDS):
            log_nobody(missing)

    def _wake(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        """Wake what is due, in batches; what is left over is woken by the next sweep."""
        count = 0
        for _round in range(ROUNDS):
            layers = _layers(places)
            woken = [
                nudges
                for layer in layers
                for some in self._together(layer, self._store.wake, problems)
                for nudges in some
            ]
            publish(self._store, self._publisher, tuple(nudge for nudges in woken for nudge in nudges))
            count += len(woken)
            if len(places) < BATCH or not woken:
                break
            places = self._worth_waking(self._store.overdue(self._patience.grace).due)
        return count

    def _nudge(self, queues: Iterable[str], problems: list[str]) -> int:
        """Publish again what was never delivered."""
        count = 0
        for queue in queues:
            unserved = self._roster.unserved(queue)
            if unserved is not None:
                self._log_missing(unserved)
            if not self._speaks_for(queue):
                continue
            try:
                depth = self._publisher.depth(queue)
                for _round in range(ROUNDS):
                    places = self._lost(queue, depth)
                    noted = self._nudge_some(places, problems)
                    count += noted
                    if self._broker_away:
                        return count
                    if len(places) < BATCH or not noted:
                        break
            except StoreUnavailable:
                raise
            except Exception as error:  # noqa: BLE001  # the other queues are handled although the broker refuses this one
                what = f"queue {queue}: {type(error).__name__}: {message_of(error)}"
                log.warning("sweep: %s", what)
                problems.append(what)
        return count

    def _nudge_some(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        """Publish, then record it: what is not recorded is published again at every sweep."""
        count = 0
        for layer in _layers(places):
            count += self._nudge_layer(layer, problems)
            if self._broker_away:
                break
        return count

    def _nudge_layer(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        missed = [one for some in self._together(places, self._store.missed, problems) for one in some]
        # One by one after a failure, so that what the broker took before it failed again is recorded.
        pieces = [missed] if not self._broker_away else [[one] for one in missed]
        count = 0
        for piece in pieces:
            if not self._taken_by_broker(tuple(one.nudge for one in piece)):
                break
            count += sum(self._together(piece, self._store.nudged, problems))
        return count

    def _together(self, found: Sequence[T], act: Callable[[Sequence[T]], R], problems: list[str]) -> list[R]:
        """Handle all in one transaction; one by one if one of them cannot be handled."""
        if not found:
            return []
        try:
            return [act(found)]
        except StoreUnavailable as error:
            if not isinstance(error, RunBusy):
                raise
        except Exception:
            log.debug("a batch failed; one by one", exc_info=True)
        return list(self._each(found, lambda one: act([one]), problems))

    def _lost(self, queue: str, depth: int | None) -> list[StrandRef]:
        patience = self._patience
        blind = BLIND_SECONDS if depth is None else BACKLOG_SECONDS
        elsewhere = self._roster.carried_elsewhere(self._broker, queue) if self._broker is not None else frozenset()
        return self._store.undelivered(queue, depth, patience.lost, blind, elsewhere)

    def _taken_by_broker(self, nudges: tuple[Nudge, ...]) -> bool:
        try:
            if nudges:
                self._publisher.publish(nudges)
        except BrokerUnavailable as error:
            if not self._broker_away:  # logged once in an outage, not at every sweep
                log.warning("%s; %d message(s) wait for a later sweep", error, len(nudges))
            self._broker_away = True
            return False
        if nudges:
            self._broker_away = False
        return True

    def _each(self, found: Iterable[T], act: Callable[[T], R], problems: list[str]) -> Iterable[R]:
        for item in found:
            try:
                yield act(item)
            except RunBusy as error:  # this run's row is locked; the others do not wait for it
                problems.append(f"{item}: {error}")
            except StoreUnavailable:
                raise
            except Exception as error:  # the other runs are handled although this one cannot be
                what = f"{item}: {type(error).__name__}: {message_of(error)}"
                log.warning("sweep: %s", what, exc_info=not (isinstance(error, StageflowError) or is_sql(error)))
                problems.append(what)


def _layers(places: Sequence[StrandRef]) -> list[list[StrandRef]]:
    """Split into parts that contain each run, and each item, once: a transaction over many changes one strand of
    each.
    """
    layers: list[list[StrandRef]] = []
    seen: Counter[tuple[str, int]] = Counter()
    for place in places:
        whose = place.run, place.item
        if seen[whose] == len(layers):
            layers.append([])
        layers[seen[whose]].append(place)
        seen[whose] += 1
    return layers
