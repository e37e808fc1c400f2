"""The engine inside one worker process: its owner, its executor, its pulses."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from traceback import walk_tb
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.delivery.consumer import boot_id
from stageflow_durable.delivery.messages import Words
from stageflow_durable.delivery.signing import UNSIGNED, Signer
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.executor import Executed, Executor, Limits
from stageflow_durable.engine.kept_lines import keep_lines
from stageflow_durable.engine.lease import Owner, Pulse
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.process_end import know
from stageflow_durable.engine.processes import mark_of
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.idempotency.nudges import NudgeGate
from stageflow_durable.model.context import Observer
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.run import SweepReport
from stageflow_durable.model.stage import OnLeaseLost
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings import Settings
from stageflow_durable.store.protocol import Store

START_SECONDS = 2.0
"""How long a process waits at its start for the database: Celery ends a child that is not up within 4 seconds."""

HOLD_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How long a message is held while the database is away, one after another. Other tasks of this process wait too."""

stopping = False


class Process:
    """One worker process. Made after the fork, so that nothing in it is shared with another."""

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        pipelines: Mapping[str, Pipeline[Any, Any]],
        settings: Settings,
        world: World,
        *,
        redis_url: str | None,
        retry: RetryPolicy | None,
        interceptors: Sequence[Any],
        observers: Sequence[Observer],
        on_lease_lost: OnLeaseLost,
        register: Callable[[], None],
        profile: Profile,
        signer: Signer = UNSIGNED,
        callback_url: Callable[[str, str], str] | None = None,
        beside: Sequence[Any] = (),
    ) -> None:
        """``beside``: what else begins and ends with the process, by ``ensure()`` and ``stop()``."""
        self.queue = settings.queue
        self.short_delay = settings.short_delay_seconds
        self.pid = os.getpid()
        self._store = store
        self._publisher = publisher
        self._gate = NudgeGate(redis_url, lean=settings.lean_gate)
        self._token = f"{boot_id()}-{self.pid}"
        self._gate_ms = int(settings.lease_seconds * 1000)
        self._local = threading.local()
        self._register = register
        self._joining = threading.Lock()
        self._joined = False
        self._tried = threading.Event()
        self._reached = threading.Event()
        self._away = 0
        self._signer = signer
        self._owners: list[Owner] = []
        self._executing: set[Owner] = set()
        self._profile = profile
        make_owner = partial(Owner, store, boot_id(), settings.lease_seconds, world.clock, profile)
        self._make_owner = partial(make_owner, mark=mark_of(self.pid), clock_moved=self._clock_moved)
        self._clock, self._lease, self._looked_at = world.clock, settings.lease_seconds, float("-inf")
        self._sweep_seconds = settings.sweep_seconds
        self._sweeps_at, self._wakes = float("-inf"), False
        self._keeps_lines = settings.log_bytes > 0
        patience = Patience.of(settings)
        self._sweeper = Sweeper(store, publisher, patience, self._judge, broker=profile.broker)
        self._make_executor = partial(
            Executor,
            store,
            pipelines=pipelines,
            world=world,
            retry=retry,
            interceptors=interceptors,
            observers=observers,
            limits=Limits(
                settings.in_place_stages,
                settings.in_place_seconds,
                payload_bytes=settings.max_payload_bytes,
                log_bytes=settings.log_bytes,
            ),
            stopping=lambda: stopping,
            publish=self.publish,
            on_lease_lost=on_lease_lost,
            callback_url=callback_url,
        )
        self._pulses = (
            Pulse("stageflow-heartbeat", settings.lease_seconds / 4, self._beat, at_once=True),
            # At once as well: a child may be replaced before the first interval is over.
            Pulse("stageflow-sweep", settings.sweep_seconds, self._sweep_in_turn, at_once=True),
            *beside,
        )

    def _executor(self) -> tuple[Owner, Executor]:
        """This thread's: what one thread holds must not end with another's mishap. A prefork child has one."""
        mine: tuple[Owner, Executor] | None = getattr(self._local, "mine", None)
        if mine is None:
            owner = self._make_owner()
            owner.serves(self.queue)
            self._owners.append(owner)
            mine = self._local.mine = owner, self._make_executor(owner=owner)
        return mine

    def _beat(self) -> None:
        try:
            self._join()
        finally:
            self._tried.set()
        steps = (*(owner.beat for owner in tuple(self._owners)), self._look_for_ended)
        troubles = [trouble for step in steps if (trouble := _failed(step)) is not None]
        if troubles:
            raise troubles[0]
        self._reached.set()

    def _look_for_ended(self) -> None:
        """Once a lease, in each process: whoever sweeps may be on another host."""
        now = self._clock.monotonic()
        if now - self._looked_at >= self._lease:
            self._looked_at = now
            self._sweeper.confirm_ended()

    def _clock_moved(self, by: float, within: float) -> None:
        self._sweeper.clock_moved(by, within)

    def _judge(self) -> str | None:
        judges = [owner.judge for owner in tuple(self._owners)]
        return judges[0] if judges and all(judges) else None

    def start(self) -> None:
        """Begin to beat and to sweep. The first beat joins as an owner, before the first message if the database
        answers; however long it is away, nobody waits longer here than Celery does for a child to come up.
        """
        if self._keeps_lines:
            keep_lines()  # Celery has set up its logging by now, which takes away handlers that were there before
        self._executor()
        for pulse in self._pulses:
            pulse.ensure()
        self._tried.wait(START_SECONDS)

    def _join(self) -> None:
        """Register the definitions and join, once. Raises StoreUnavailable, SchemaBehind."""
        if self._joined:
            return
        with self._joining:
            if not self._joined:
                self._register()
                self._owners[0].join()
                self._joined = True

    def stop(self) -> None:
        """Tell the others that this process ends. An owner whose thread still runs a stage is not retired: its lease
        lasts until the process exits.
        """
        executing = tuple(self._executing)
        for pulse in self._pulses[bool(executing) :]:
            pulse.stop()
        for owner in self._owners:
            if owner not in executing:
                owner.retire()

    def refused(self, words: Words, queue: str) -> str | None:
        """Why a message from that queue is not one to act upon, by its signature; None: it is."""
        return self._signer.refused(words, queue)

    def hold_back(self) -> None:
        """The database is away, or not yet upgraded: wait before the next message is taken, longer each time, until a
        heartbeat reaches it. Else a child takes all that waits, and publishes each again, as fast as the broker can.
        """
        self._away = min(self._away + 1, len(HOLD_SECONDS))
        self._reached.clear()  # not what a heartbeat reached before
        self._reached.wait(HOLD_SECONDS[self._away - 1])

    def nearness(self, run_id: str) -> int:
        """How much of a run is this engine's, of several: its definition, its pipeline, its database, or nothing."""
        run = self._store.facts(run_id)
        if run is None:
            return 0
        known = self._profile.pipelines.get(run.pipeline)
        return 1 if known is None else 3 if known.digest == run.definition else 2

    def first(self, key: str) -> bool:
        """Whether this message is not a duplicate of one that was just taken."""
        return self._gate.claim(key, self._token, self._gate_ms)

    def execute(self, nudge: Nudge) -> Executed:
        """Carry a nudge. Raises StoreUnavailable, SchemaBehind."""
        self._join()
        owner, executor = self._executor()
        self._executing.add(owner)
        try:
            executed = executor.execute(nudge)
            self._away = 0
            return executed
        finally:
            self._executing.discard(owner)

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Publish, or leave it to the sweep."""
        publish(self._store, self._publisher, nudges, delay)

    def sweep(self) -> SweepReport:
        """Sweep now."""
        return self._sweeper.sweep()

    def _sweep_in_turn(self) -> float | None:
        """Sweep, and until the next sweep wake what is due at its time; returns in how many seconds to be called again,
        where that is sooner than usual.
        """
        # The first sweep begins beside the first heartbeat, which joins: a child that is replaced before the second one
        # would never sweep.
        self._tried.wait()
        if not self._joined:
            return None  # the heartbeat tries, and says why it cannot
        now = self._clock.monotonic()
        if now >= self._sweeps_at:
            self._sweeps_at = now + self._sweep_seconds
            # All workers share one rhythm: whoever comes first after the interval sweeps, and wakes until another does.
            self._wakes = self._sweeper.sweep_in_turn(self._sweep_seconds * 0.9) is not None
            soonest = self._sweeper.next_wait() if self._wakes else None
        else:
            soonest = self._sweeper.wake_on_time() if self._wakes else None
        left = max(0.0, self._sweeps_at - self._clock.monotonic())
        return left if soonest is None else min(soonest, left)


def _failed(beat: Callable[[], object]) -> Exception | None:
    """What a beat met. Whatever it is, the other owners' beats follow: a lease must not end with a neighbour's."""
    try:
        beat()
    except Exception as error:  # noqa: BLE001  # raised once all of them have had their turn
        return error
    return None


# --- how Celery's signal handlers end a process: they raise SystemExit in whatever runs -------------------------------

_HANDLERS = frozenset({"billiard.common", "celery.apps.worker"})
"""Where a signal handler raises SystemExit: in a pool's child that is terminated, in a worker that is ended."""

_FURTHEST = 20
"""How far it is looked for behind an error that was raised while it passed: a cleanup that failed, say."""


def told_to_end(error: BaseException) -> bool:
    """Whether a signal handler of Celery's or its pool's raised this error, or one that it was raised in the middle
    of.
    """
    looked: BaseException | None = error
    for _behind in range(_FURTHEST):
        if looked is None:
            return False
        if issubclass(type(looked), SystemExit) and _by_handler(looked):
            return True
        looked = BaseException.__dict__["__context__"].__get__(looked)  # its own class may have another
    return False


def _by_handler(error: BaseException) -> bool:
    trace = BaseException.__dict__["__traceback__"].__get__(error)
    return any(frame.f_globals.get("__name__") in _HANDLERS for frame, _line in walk_tb(trace))


know(told_to_end)
