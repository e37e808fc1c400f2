"""Telling sinks of events: each by a thread of its own in each worker process, of which one has the sink's lease.

A sink that hangs or refuses holds up nobody but itself: neither a sweep, nor a stage, nor another sink. What it was
told is saved once a second: after a crash it is told of these events again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from stageflow_durable.clock import Clock, Draw
from stageflow_durable.engine.lease import Pulse
from stageflow_durable.engine.redaction import message_of
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.masking import masked, masking
from stageflow_durable.model.sinks import Horizon, RunEvent, Sink, SinkLease
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import News

log = masking(logging.getLogger("stageflow.sinks"))

LEASE_SECONDS = 60.0
"""How long a process may tell a sink without a word to the store: one delivery that takes longer is told elsewhere."""

LOOK_SECONDS = 5.0
"""How often a process asks for a sink that another one tells."""

POLL_SECONDS = 1.0
"""How soon a sink is told of what happened."""

SAVE_SECONDS = 1.0
"""How often it is saved how far a sink was told, while it is."""

WAIT_SECONDS = 0.05
"""How soon the store is asked again whether transactions that were under way have ended."""

TOGETHER = 200
"""How many events are read at once."""

LONGEST_RETRY_SECONDS = 300.0
MOST_OF_AN_ERROR = 500
"""Characters of what a sink said that are kept."""


def retry_in(tries: int, draw: Draw) -> float:
    """In how many seconds a sink that has refused ``tries`` times in a row is tried again: 1, 2, 4 … 300, or down to
    half of it.
    """
    seconds = min(LONGEST_RETRY_SECONDS, 2.0 ** min(tries - 1, 20))
    return draw(seconds / 2, seconds)


class _TakenOver(Exception):
    """Another process tells the sink by now."""


class Delivery:
    """Tells one sink, from this process, as long as it has the lease. ``owner``: how the store calls the process."""

    def __init__(self, store: Store, sink: Sink, owner: str, clock: Clock, draw: Draw) -> None:
        self.sink = sink
        self.delivered = 0
        self._store, self._owner, self._clock, self._draw = store, owner, clock, draw
        self._lease: SinkLease | None = None
        self._told = 0  # how far, where self._lease has what is saved
        self._saved_at = 0.0
        self._took = False  # anything since then
        self._opened = False
        self._pending: Horizon | None = None
        self._stopping = False
        self._busy = threading.Lock()

    def turn(self) -> float | None:
        """Tell what there is to tell, up to a point; returns in how many seconds there may be more, or None: another
        process tells this sink, or it is to be tried later. Raises StoreUnavailable.
        """
        with self._busy:
            if self._stopping or not self._has_lease():
                return None
            try:
                return self._tell()
            except _TakenOver:
                log.warning("sink %s: another process tells it by now; what this one told may come twice", self._name)
                self._lease = None
                return None

    @property
    def _name(self) -> str:
        return self.sink.name

    def _has_lease(self) -> bool:
        if self._lease is not None:
            return True
        if not self._opened:
            self._store.open_sink(self._name)
            self._opened = True
        lease = self._store.take_sink(self._name, self._owner, LEASE_SECONDS)
        if lease is not None:
            self._lease, self._told, self._saved_at = lease, lease.position, self._clock.monotonic()
            self._pending = None
        return lease is not None

    def _tell(self) -> float | None:
        self._keep_lease()
        horizon = self._store.horizon(self._pending)
        self._pending = horizon if horizon.writers else None
        if self._pending is not None:
            return WAIT_SECONDS
        if horizon.position <= self._told:
            if self._held().tries:
                self._save(well=True)
            return POLL_SECONDS
        news = self._store.news(self._told, horizon.position, self.sink.kinds, TOGETHER)
        if not self._take_all(news):
            return None
        self._told = news.position
        self._save()
        return 0.0 if news.position < horizon.position else POLL_SECONDS

    def _take_all(self, news: News) -> bool:
        """Whether the sink took all of them."""
        for position, event in news.events:
            if self._stopping:
                self._save()
                return False
            self._keep_lease()
            error = self._deliver(event)
            if error is not None:
                self._refused(event, error)
                return False
            self._told = position
        return True

    def _deliver(self, event: RunEvent) -> BaseException | None:
        try:
            self.sink.deliver(event)
        except BaseException as error:  # noqa: BLE001  # this thread is the sink's own: nothing it raises ends more than the attempt
            return error
        self.delivered += 1
        self._took = True
        return None

    def _refused(self, event: RunEvent, error: BaseException) -> None:
        lease = self._held()
        tries = 1 if self._told > lease.position else lease.tries + 1
        said = masked(message_of(error))[:MOST_OF_AN_ERROR] or type(error).__name__
        seconds = retry_in(tries, self._draw)
        if tries == 1:  # once, not at each try
            what = f"{event.type} of run {event.run_id}"
            log.warning("sink %s did not take %s: %s; it is tried again, later and later", self._name, what, said)
        self._lease, self._took = None, False
        if not self._store.sink_refused(lease, self._told, said, seconds):
            raise _TakenOver

    def _held(self) -> SinkLease:
        assert self._lease is not None, "only asked while it is held"
        return self._lease

    def _keep_lease(self) -> None:
        """Save what was told, if that is due; and before a delivery that could come after the lease."""
        since = self._clock.monotonic() - self._saved_at
        if since > LEASE_SECONDS / 3 or (since > SAVE_SECONDS and self._told > self._held().position):
            self._save()

    def _save(self, *, well: bool = False) -> None:
        """``well``: nothing is left that it could refuse."""
        lease, took = self._held(), self._took
        if not self._store.advance_sink(lease, self._told, LEASE_SECONDS, took=took, well=well or took):
            raise _TakenOver
        if took and lease.tries:
            log.warning("sink %s takes events again", self._name)
        self._lease = lease._replace(position=self._told, tries=0 if well or took else lease.tries)
        self._saved_at, self._took = self._clock.monotonic(), False

    def stop(self, patience: float = 1.0) -> None:
        """Tell no more, and let another process have the sink: at once, if it does not hang in a delivery."""
        self._stopping = True
        if not self._busy.acquire(timeout=patience):
            return  # its lease runs out
        try:
            if self._lease is not None:
                self._save()
                self._store.leave_sink(self._held())
        except (_TakenOver, StoreUnavailable):
            pass  # it has it, or will once the lease runs out
        finally:
            self._lease = None
            self._close_sink()
            self._busy.release()

    def _close_sink(self) -> None:
        try:
            getattr(self.sink, "close", lambda: None)()
        except Exception as error:  # noqa: BLE001  # it told all it had to
            log.warning("sink %s could not be closed: %s", self._name, message_of(error))


class Deliveries:
    """What a worker process does for its engine's sinks: a thread for each."""

    def __init__(self, store: Store, sinks: Sequence[Sink], owner: str, clock: Clock, draw: Draw) -> None:
        self._all = [Delivery(store, sink, owner, clock, draw) for sink in sinks]
        self._pulses = [
            Pulse(f"stageflow-sink-{one.sink.name}", LOOK_SECONDS, one.turn, at_once=True) for one in self._all
        ]

    def ensure(self) -> None:
        """Begin, unless it is begun."""
        for pulse in self._pulses:
            pulse.ensure()

    def stop(self) -> None:
        """End, and let other processes go on."""
        for pulse in self._pulses:
            pulse.stop()
        for one in self._all:
            one.stop()


def deliver_now(
    store: Store, sinks: Sequence[Sink], owner: str, clock: Clock, draw: Draw, *, patience: float = 5.0
) -> dict[str, int]:
    """Tell every sink what there is to tell now; returns how many events each took. One that another process tells, or
    that refuses, is left to later. ``patience``: seconds for transactions that are under way.
    """
    told: dict[str, int] = {}
    for sink in sinks:
        one = Delivery(store, sink, owner, clock, draw)
        try:
            _until_told(one.turn, clock, patience)
        finally:
            one.stop()
        told[sink.name] = one.delivered
    return told


def _until_told(turn: Callable[[], float | None], clock: Clock, patience: float) -> None:
    until = clock.monotonic() + patience
    while (more := turn()) is not None and more < POLL_SECONDS:
        if more > 0.0:
            if clock.monotonic() >= until:
                return
            clock.sleep(more)
