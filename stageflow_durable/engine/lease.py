"""Owners and their heartbeat: renewing the lease, finding out that it was lost, and going on under a new id.

One thread of a process renews for all its owners, another one sweeps, so that a slow sweep does not cost the lease.
Both start with the process's first work, after any fork.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

from stageflow_durable.clock import Clock
from stageflow_durable.engine.interrupt import Interruption
from stageflow_durable.errors import Retryable, StageflowError, StoreRefused, StoreUnavailable
from stageflow_durable.masking import masking
from stageflow_durable.model.roster import Profile
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import UNMARKED, Identity, Mark

log = masking(logging.getLogger("stageflow.owner"))


class Owner:
    """A thread of this process that runs stages (in a prefork pool the only one), as an owner of work. One that was
    declared dead goes on under a new id. ``profile``: the engine, queues and definitions of the process.

    ``mark``: names the process, so that others of its host can confirm its end. ``interruption``: ends its body early.
    ``clock_moved``: called with by how many seconds the database's clock has moved, and within how many.
    """

    def __init__(
        self,
        store: Store,
        boot: str,
        lease_seconds: float,
        clock: Clock,
        profile: Profile | None = None,
        *,
        mark: Mark = UNMARKED,
        interruption: Interruption | None = None,
        clock_moved: Callable[[float, float], object] | None = None,
    ) -> None:
        self._store = store
        self._boot = boot
        self._lease = lease_seconds
        self._clock = clock
        self._profile = profile
        self._mark = mark
        self.interruption = interruption or Interruption()
        self._clock_moved = clock_moved
        self._tried_at = float("-inf")
        self._offset: float | None = None
        self._guard = threading.Lock()
        self._id: str | None = None
        self._pid = 0
        self._renewed_at = 0.0
        self._joined_at = float("inf")
        self._lapsed_at = float("-inf")
        self._served: dict[str, float] = {}
        self._ended = False
        self._works = False
        self._inherits = False
        self._former: set[str] = set()
        self._queues: set[str] = set()
        self._was_busy = True

    @property
    def id(self) -> str:
        """The owner's id, joined at first use in each process. Raises StoreUnavailable."""
        with self._guard:
            if self._id is None or self._pid != os.getpid():
                identity = Identity(socket.gethostname(), os.getpid(), self._boot, self._mark)
                self._id = self._store.join(identity, self._lease, self._profile)
                self._pid, self._renewed_at = os.getpid(), self._clock.monotonic()
                self._joined_at, self._inherits = self._renewed_at, False
            return self._id

    def is_still(self, owner: str) -> bool:
        """Whether this thread is still that owner, as far as it knows; asks nobody."""
        return self._id == owner

    def join(self) -> None:
        """Become an owner now, not with the first work: only an owner may judge others. Raises StoreUnavailable."""
        _ = self.id

    def served(self, queue: str, published_at: float) -> None:
        """A message that was published then was carried; the next heartbeat writes that."""
        self._queues.add(queue)
        with self._guard:
            self._served[queue] = max(self._served.get(queue, 0.0), published_at)

    def serves(self, queue: str) -> None:
        """This owner carries messages of that queue."""
        self._queues.add(queue)

    def begin_work(self) -> None:
        """A message is being executed: a body may act under the ids of this owner."""
        self._works = True

    def end_work(self) -> None:
        """The execution is over. Report that for ids that were declared dead meanwhile: undos may wait for it."""
        self._works, self._was_busy = False, True
        if self._former:
            with contextlib.suppress(StageflowError):  # else the next heartbeat does
                self._say_over()

    def find_out(self) -> None:
        """A write was refused: renew now, to find out whether this owner was declared dead and to report that the body
        is over.
        """
        with contextlib.suppress(StageflowError):  # else the next heartbeat does
            self.beat()

    def beat(self) -> None:
        """Renew once; join again if the id was lost. If the database does not answer, the next beat tries again."""
        with self._guard:
            owner, served = self._id, dict(self._served)
        if owner is not None:
            self._renew(owner, served)
        elif self._joined_at < float("inf") and not self._ended:
            # Declared dead, or given up, and idle since. Without a lease it declares nobody dead; if all
            # were so, the work of a dead process would never be taken over.
            self.join()
        if self._former and not self._works:
            self._say_over()
        if self._was_busy and not self._works and self._queues and self._id is not None:
            self._store.freed(tuple(self._queues))
            self._was_busy = False

    def _renew(self, owner: str, served: dict[str, float]) -> None:
        asked, tried_at = self._clock.monotonic(), self._tried_at
        self._tried_at = asked
        try:
            at = self._store.renew(owner, self._lease)
        except StoreUnavailable:
            if self._clock.monotonic() - self._renewed_at > self._lease:
                self.interruption.lease_lost()
            raise
        now = self._clock.monotonic()
        if at is not None:
            self._follow_clock(at - now, now - asked, now - self._renewed_at, paused=asked - tried_at > self._lease)
        with self._guard:
            if now - self._renewed_at > self._lease / 2:
                # We were paused, or the database was: others that look dead may only have been cut off too.
                self._lapsed_at = now
            self._renewed_at = now
            if at is None and self._id == owner:
                log.warning("owner %s was declared dead; what it held was taken over", owner)
                self._id = None
                self._former.add(owner)
                self.interruption.taken_over()
        if served:
            self._note(served)

    def _note(self, served: dict[str, float]) -> None:
        """Write which messages were carried. What the database refuses is dropped, or it would fail at every beat."""
        try:
            self._store.served(served)
        except Retryable:
            raise  # the database is away, or busy: the next beat tries again
        except Exception as error:  # noqa: BLE001  # only a hint to the sweep; the lease must not depend on it
            log.warning("what was served could not be noted (%s); the sweep waits longer", type(error).__name__)
        with self._guard:
            self._served = {queue: at for queue, at in self._served.items() if served.get(queue) != at}

    def _follow_clock(self, offset: float, took: float, window: float, *, paused: bool) -> None:
        """``offset``: between the database's clock and the monotonic one, which may stand still while we are paused."""
        before, self._offset = self._offset, offset
        by = 0.0 if before is None else offset - before
        if abs(by) <= took + 1.0 or paused:
            return
        log.warning("the database's clock has moved by %+.1f s; what is under way keeps its times", by)
        if self._clock_moved is not None:
            self._clock_moved(by, window + 1.0)

    def _say_over(self) -> None:
        for owner in tuple(self._former):
            self._store.retire(owner)
            self._former.discard(owner)

    @property
    def may_judge(self) -> bool:
        """Whether this owner may declare others dead: only after it has renewed for a lease without a gap, since after
        a pause of the database every owner looks dead. A new one inherits that from its worker. The database decides.
        """
        now = self._clock.monotonic()
        if self._id is None or now - self._lapsed_at <= self._lease or now - self._renewed_at >= self._lease / 2:
            return False
        if now - self._joined_at > self._lease or self._inherits:
            return True
        self._inherits = self._store.may_judge(self._id)
        return self._inherits

    @property
    def judge(self) -> str | None:
        """The id under which this owner may declare others dead now, or None."""
        return self._id if self.may_judge else None

    def abandon(self) -> None:
        """Give up this id, so that what it holds is taken over. The thread goes on under a new one."""
        self._give_up()  # an owner belongs to one thread, and what that ran is over

    def retire(self) -> None:
        """Report that this owner has ended."""
        self._ended = True
        self._give_up()

    def _give_up(self) -> None:
        with self._guard:
            owner, self._id = self._id, None
        if owner is not None:
            self._former.add(owner)
            with contextlib.suppress(StageflowError):  # else the next heartbeat does, or its lease runs out
                self._store.retire(owner)
                self._former.discard(owner)


class Pulse:
    """A daemon thread that calls an action regularly; each process has its own. ``at_once``: call it the first time
    without waiting. An action may return in how many seconds it wants to be called again, if that is sooner.
    """

    def __init__(self, name: str, every: float, action: Callable[[], float | None], *, at_once: bool = False) -> None:
        self._name = name
        self._every = every
        self._action = action
        self._at_once = at_once
        self._pid = 0
        self._stopped = threading.Event()
        self._trouble: type[StageflowError] | None = None

    def ensure(self) -> None:
        """Start the thread, unless it runs in this process."""
        if self._pid != os.getpid():
            self._pid, self._stopped = os.getpid(), threading.Event()
            threading.Thread(target=self._run, args=(self._stopped,), name=self._name, daemon=True).start()

    def stop(self) -> None:
        """End the thread after its current action."""
        self._stopped.set()
        self._pid = 0

    def _run(self, stopped: threading.Event) -> None:
        sooner = self.once() if self._at_once else None
        while not stopped.wait(self._every if sooner is None else min(sooner, self._every)):
            sooner = self.once()

    def once(self) -> float | None:
        """Call the action and return its result. A failure is logged when it begins and when it ends, not each time."""
        try:
            sooner = self._action()
        except StageflowError as error:
            self._failed(error)
        except Exception:
            log.exception("%s failed; it goes on", self._name)
        else:
            self._worked()
            return sooner
        return None

    def _failed(self, error: StageflowError) -> None:
        if self._trouble is not type(error):
            self._trouble = type(error)
            # An outage ends by itself; an old schema or a missing right needs a person.
            waits = isinstance(error, Retryable) and not isinstance(error, StoreRefused)
            level = logging.WARNING if waits else logging.ERROR
            log.log(level, "%s: %s; tried again every %.1f s", self._name, error, self._every)

    def _worked(self) -> None:
        if self._trouble is not None:
            self._trouble = None
            log.warning("%s works again", self._name)
