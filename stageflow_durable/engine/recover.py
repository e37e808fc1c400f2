"""The recovery sweep: the same in the beat task, in every worker and in ``stageflow sweep``. Any number may run at
once.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.attempt_log import buried, ended, nobody, taken_over
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.processes import has_ended, kernel
from stageflow_durable.errors import BrokerUnavailable, RunBusy, StageflowError, StoreUnavailable
from stageflow_durable.model.roster import Missing, Roster
from stageflow_durable.model.run import SweepReport
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings.masking import masking
from stageflow_durable.state.recovery import BATCH, StrandRef
from stageflow_durable.state.redaction import is_sql, message_of
from stageflow_durable.state.store import Store

log = masking(logging.getLogger("stageflow.recover"))
T = TypeVar("T")
R = TypeVar("R")

BLIND_SECONDS = 60.0
"""How old a nudge must be to count as lost when the broker cannot say how many messages wait."""

BACKLOG_SECONDS = 600.0
"""The same when it says that some do: others' work on the same queue would hide a lost one for ever."""


TELL_SECONDS = 60.0
"""How often all workers together log that nobody carries some runs."""

ROUNDS = 4
"""Batches of one kind in one sweep: more would keep what else there is to do waiting for longer than a sweep."""


LOOK_SECONDS = 0.02
"""Between two looks for what is due: what comes due in quick succession is woken together."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Times of a sweep in seconds. ``lease``: of owners; ``grace``: how late a retry may be, for which a message may be
    under way, before the sweep wakes it; ``lost``: how old a nudge must be, once its queue is empty, to count as lost.
    """

    lease: float
    grace: float = 0.1
    lost: float = 1.0
    max_lost: int = 5


class Sweeper:
    """Finds what stands still and sets it going again. ``broker``: where it publishes, as workers call it; what only
    workers of another broker take is left to a sweep of theirs.
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
        """``judge``: the owner that may declare others dead now, or None; left out: whoever sweeps holds no lease."""
        self._store = store
        self._publisher = publisher
        self._patience = patience
        self._judge = judge
        self._broker = broker
        self._roster = Roster()
        self._broker_away = False
        self._moved: tuple[float, float] | None = None

    def clock_moved(self, by: float, within: float) -> None:
        """The database's clock was found to have moved ``by`` seconds, ``within`` the last ones: the next sweep moves
        stored times of what is under way along.
        """
        self._moved = by, within

    def _follow_clock(self) -> None:
        if self._moved is not None:
            self._store.move_times(*self._moved, self._patience.lease)
            self._moved = None

    def sweep(self) -> SweepReport:
        """One sweep. Raises StoreUnavailable; a single run that cannot be handled is reported and does not stop the
        others.
        """
        problems: list[str] = []
        self._follow_clock()
        dead = self._bury()
        overdue = self._store.overdue(self._patience.grace)
        self._roster = self._store.roster() if any(overdue) else self._roster
        taken = sum(self._each(overdue.orphans, self._take_one, problems))
        late = sum(self._each(overdue.late, self._expire, problems))
        released = sum(map(len, self._each(overdue.ended, self.release, problems)))
        woken = self._wake(self._worth_waking(overdue.due), problems)
        nudged = self._nudge(overdue.queues, problems)
        return SweepReport(len(dead), taken, woken, nudged, late, tuple(problems), released)

    def sweep_in_turn(self, every: float) -> SweepReport | None:
        """Sweep unless another process did within ``every`` seconds. Who may judge and who may not yet take turns
        apart: the turns of a worker that has just started would bury nobody, for a whole lease.
        """
        judges = self._judge is None or self._judge() is not None
        turn = "sweep" if judges else "sweep of newcomers"
        # A turn of each broker's own: else one whose sweeps come first would keep the other's from all of theirs.
        mine = self._store.my_tick(turn if self._broker is None else f"{turn} at {self._broker}"[:255], every)
        return self.sweep() if mine else None

    def wake_on_time(self) -> float | None:
        """Wake what is due now, between two sweeps; returns in how many seconds the next wait is, or None."""
        due = self._store.overdue(self._patience.grace).due
        if due:
            self._roster = self._store.roster()
            self._wake(self._worth_waking(due), [])
        return self.next_wait()

    def next_wait(self) -> float | None:
        """In how many seconds something that waits is to be woken, or None: nothing waits for a time."""
        soonest = self._store.next_wait(self._patience.grace)
        return None if soonest is None else max(soonest, LOOK_SECONDS)

    def _bury(self) -> tuple[str, ...]:
        """Declare owners dead. Who holds no lease cannot know whether all were cut off, and waits for one more."""
        if self._judge is None:
            dead = self._store.mark_expired(self._patience.lease)
        else:
            judge = self._judge()
            dead = () if judge is None else self._store.judge(judge)
        buried(dead, "its lease ran out")
        return dead

    def process_killed(self, boot: str, pid: int) -> int:
        """A process was seen to end: take its work at once. Returns how many strands were taken."""
        dead = self._store.mark_killed(boot, pid)
        buried(dead, f"its process {pid} has ended")
        orphans = self._store.overdue(self._patience.grace).orphans if dead else []
        self._roster = self._store.roster() if orphans else self._roster
        return sum(self._each(orphans, self._take_one, []))

    def confirm_ended(self) -> None:
        """Look whether processes of this host have ended for whose end an undo waits."""
        host = socket.gethostname()
        for owner in self._store.awaited(host, kernel()):
            if has_ended(owner, host) and self._store.confirm(owner.id, f"another process of {host}"):
                ended(owner)

    def release(self, owner: str) -> list[str]:
        """Let the undos begin that waited for the end of an owner, which is confirmed; returns their runs."""
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
        taken_over(place, self._store.facts(place.run))
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
        """Without what is another broker's, and what was handed back and still no live worker knows."""
        waits = self._store.waits([place.run for place in due]) if due else []
        theirs = {(one.run, one.strand) for one in waits if not self._speaks_for(one.need.queue, one.need.definitions)}
        nobodys = {}
        for one in waits:
            missing = self._roster.missing(one.need) if one.handed_back else None
            if missing is not None:
                nobodys[one.run, one.strand] = missing
        if nobodys:
            self._store.put_off(sorted({run for run, _strand in nobodys}))
            for missing in set(nobodys.values()):
                self._tell(missing)
        return [place for place in due if (place.run, place.strand) not in theirs | nobodys.keys()]

    def _tell(self, missing: Missing) -> None:
        """Once a minute, in the log of one worker."""
        if self._store.my_tick(f"told: {missing.message}"[:255], TELL_SECONDS):
            nobody(missing)

    def _wake(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        """Wake what is due. Many at one moment are woken batch by batch; what is left comes with the next sweep."""
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
        """Publish what was never delivered, and note it only then."""
        count = 0
        for queue in queues:
            unserved = self._roster.unserved(queue)
            if unserved is not None:
                self._tell(unserved)
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
            except Exception as error:  # noqa: BLE001  # one queue that the broker refuses must not keep the others
                what = f"queue {queue}: {type(error).__name__}: {message_of(error)}"
                log.warning("sweep: %s", what)
                problems.append(what)
        return count

    def _nudge_some(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        """Publish, then note it. What was published and not noted would be published at every sweep."""
        count = 0
        for layer in _layers(places):
            count += self._nudge_layer(layer, problems)
            if self._broker_away:
                break
        return count

    def _nudge_layer(self, places: Sequence[StrandRef], problems: list[str]) -> int:
        missed = [one for some in self._together(places, self._store.missed, problems) for one in some]
        # One by one after a failure: what a broker took before it failed again must not come at every sweep.
        pieces = [missed] if not self._broker_away else [[one] for one in missed]
        count = 0
        for piece in pieces:
            if not self._taken_by_broker(tuple(one.nudge for one in piece)):
                break
            count += sum(self._together(piece, self._store.nudged, problems))
        return count

    def _together(self, found: Sequence[T], act: Callable[[Sequence[T]], R], problems: list[str]) -> list[R]:
        """Do it for all in one transaction; one by one where one of them cannot be handled."""
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
            if not self._broker_away:  # once an outage, not at every sweep
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
            except RunBusy as error:  # somebody holds this run's row; the others do not wait for it
                problems.append(f"{item}: {error}")
            except StoreUnavailable:
                raise
            except Exception as error:  # one run that cannot be handled must not keep the sweep from the others
                what = f"{item}: {type(error).__name__}: {message_of(error)}"
                log.warning("sweep: %s", what, exc_info=not (isinstance(error, StageflowError) or is_sql(error)))
                problems.append(what)


def _layers(places: Sequence[StrandRef]) -> list[list[StrandRef]]:
    """Parts in which each run comes once: a transaction over many runs changes one strand of each."""
    layers: list[list[StrandRef]] = []
    seen: Counter[str] = Counter()
    for place in places:
        if seen[place.run] == len(layers):
            layers.append([])
        layers[seen[place.run]].append(place)
        seen[place.run] += 1
    return layers
