"""Simulated processes: the engine's own parts behind points at which a process may stop, die or lose its connection."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from greenlet import GreenletExit

from stageflow_durable.clock import World
from stageflow_durable.delivery.messages import Words
from stageflow_durable.delivery.tasks import handle_message, understood
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.executor import Executed, Executor, Limits
from stageflow_durable.engine.interrupt import Interruption
from stageflow_durable.engine.lease import Owner
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.errors import StageflowError
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.work import Nudge
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import Identity, Overdue
from stageflow_durable.testing import Crash
from stageflow_durable.testing.faults import StoreWithPoints
from tests.simulation.broker import Again, Message, Publisher
from tests.simulation.broker import Task as CeleryTask
from tests.simulation.ledger import Violation
from tests.simulation.lines import Line
from tests.simulation.observers import Observer
from tests.simulation.scenario import LEASE

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

BEAT_SECONDS = LEASE / 4
SWEEP_SECONDS = 1.0
BROKER = "memory://"
DEFAULT_POLICY = RetryPolicy()
QUIET = frozenset({"my_tick", "renew", "served", "clock"})
TOUCH_NO_RUN = frozenset({"register", "join", "renew", "served", "retire", "mark_killed", "my_tick", "freed"})


class OwnStore(StoreWithPoints):
    """The engine's store as one process reaches it: for the operating system all of them are one, so that each joins
    under a number of its own.
    """

    def __init__(self, store: Store, process: Process) -> None:
        super().__init__(store, process.reach, partial(process.reach, "before"))
        self._pid = process.pid
        self._signal_meanwhile = process.sim.signal_meanwhile

    def join(self, identity: Identity, *given: Any) -> str:
        """As itself."""
        return super().join(replace(identity, pid=self._pid), *given)  # type: ignore[misc, no-any-return]  # it is set there

    def overdue(self, grace: float) -> Overdue:
        """What a sweep looks after; a signal may come before it has written what it found out."""
        found: Overdue = super().overdue(grace)  # type: ignore[misc]  # as above
        self._signal_meanwhile(found.due)
        return found


class Clock:
    """A process's clock: it may be wrong about the time of day; sleeping lets the others go on."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self.wrong_by = 0.0

    def time(self) -> float:
        return self._process.sim.now() + self.wrong_by

    def monotonic(self) -> float:
        return self._process.sim.passed

    def sleep(self, seconds: float) -> None:
        self._process.sim.sleep(seconds)


class Guard:
    """Stands for the owner's lock: a heartbeat that comes while it is held waits, and is not made here at all."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_error: object) -> None:
        self.depth -= 1


class Job:
    """Something that a process does, on a line of its own."""

    def __init__(self, process: Process, name: str, action: Callable[[], None]) -> None:
        self.process = process
        self.name = f"{process.name} {name}"
        self.move = f"go on: {self.name}"
        self.until = 0.0
        self.done = False
        self.went_on_at = 0.0
        self._action = action
        self._line = Line(self._work)

    def _work(self) -> None:
        sim = self.process.sim
        try:
            self._action()
        except Crash:
            pass
        except Violation as violation:
            sim.broken(violation)
        except GreenletExit:
            raise  # nobody needs this line any more
        except BaseException as error:  # noqa: BLE001  # an error that nothing handles is what we look for
            sim.broken(Violation(f"{self.name}: {type(error).__name__}: {error}"), error)
        finally:
            self.done = True

    def go(self) -> None:
        """Go on until the next stop."""
        self.process.sim.current = self
        self._line.go()
        self.process.sim.current = None

    def stop(self, until: float = 0.0) -> None:
        """Let others go on; this one not before ``until`` (seconds that have passed)."""
        self.until = until
        self._line.stop()
        if not self.process.alive:
            raise Crash("the process died meanwhile")

    def may_go(self, passed: float) -> bool:
        process = self.process
        return not self.done and (not process.alive or (self.until <= passed and process.stopped_until <= passed))


class Process:
    """A process: a store and a publisher of its own, and whether it lives."""

    def __init__(self, sim: Simulation, name: str) -> None:
        self.sim = sim
        self.name = name
        self.alive = True
        self.stopped_until = 0.0
        self.reach: Callable[[str, str], None] = partial(sim.fates.reached, self)
        self.pid = len(sim.processes) + 1
        self.store = cast("Store", OwnStore(sim.store, self))
        self.publisher = Publisher(sim.broker, self.reach, self._mishap)
        self.clock = Clock(self)
        self.jobs: list[Job] = []
        sim.processes.append(self)

    @property
    def stopped(self) -> bool:
        """Whether it stands still (SIGSTOP)."""
        return self.stopped_until > self.sim.passed

    def _mishap(self, message: Message) -> None:
        self.sim.fates.mishap(message)

    def start(self, name: str, action: Callable[[], None]) -> Job:
        """Begin a job; it does nothing yet."""
        job = Job(self, name, action)
        self.jobs.append(job)
        self.sim.jobs.append(job)
        return job

    def patience(self) -> Patience:
        return Patience(LEASE, max_lost=self.sim.setup.max_lost)


class Told(Interruption):
    """Tells a simulated body to end; it looks now and then whether it is to."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def __enter__(self) -> None:
        self._worker.told_to_end = False

    def __exit__(self, *_error: object) -> None:
        self._worker.told_to_end = False

    def taken_over(self) -> None:
        self._worker.told_to_end = True


class Worker(Process):
    """A worker of one process: what ``delivery.process.Process`` is, with its pulses beaten by the simulation."""

    queue = "stageflow"
    short_delay = 60.0

    def __init__(self, sim: Simulation, name: str, before: Worker | None = None) -> None:
        """``before``: the child in whose place the same worker has started this one."""
        super().__init__(sim, name)
        self.boot: str = name if before is None else before.boot
        self.started_at = self.beaten_at = sim.passed
        self.prefetched: list[Message] = []
        self.silent_until = 0.0
        self._joined = self._joining = False
        self.renewed_at = float("-inf")
        self.told_to_end = False
        if before is None:
            self.clock.wrong_by = sim.chance.one_of(f"{name}: clock wrong by", [0.0, 3600.0, -3600.0], [8, 1, 1])
            self.knows = self._known()
        else:
            self.clock.wrong_by, self.knows = before.clock.wrong_by, before.knows
        self.profile = sim.profile(self.knows)
        self.owner = Owner(
            self.store,
            self.boot,
            LEASE,
            self.clock,
            self.profile,
            interruption=Told(self),
            clock_moved=self._clock_moved,
        )
        self._guard = Guard()
        self.owner._guard = self._guard  # type: ignore[assignment]  # a lock would stop the one line that goes on
        observer = Observer(sim)
        self._executor = Executor(
            self.store,
            self.owner,
            self.knows,
            world=World(self.clock, sim.draw),
            retry=DEFAULT_POLICY,
            interceptors=(observer,) if sim.setup.observed else (),
            observers=(observer.hears,) if sim.setup.observed else (),
            limits=Limits(sim.setup.in_place, 5.0),
            publish=self.publish,
            bounded=lambda: True,
            callback_url=sim.urls.url,
        )
        self.sweeper = Sweeper(self.store, self.publisher, self.patience(), lambda: self.owner.judge, broker=BROKER)
        self.carrying: Job | None = None
        self.sweeping: Job | None = None

    def _known(self) -> dict[str, Any]:
        sim = self.sim
        unsure = 0.0 if sim.passed and sim.healing else 0.05
        unknown = [one for one in sim.pipelines if sim.chance.flip(f"{self.name}: does not know {one}", unsure)]
        return {one: pipeline for one, pipeline in sim.pipelines.items() if one not in {*unknown, sim.unheard_of}}

    # --- what ``carry`` calls -----------------------------------------------------------------------------------------

    def first(self, key: str) -> bool:
        self.reach("before", "gate")
        passes = self.sim.gate.claim(key, self.name, LEASE)
        self.reach("after", "gate")
        return passes

    def refused(self, words: Words, queue: str) -> str | None:
        return None

    def hold_back(self) -> None:
        """Nothing: what comes again comes later, and time passes by itself here."""

    def execute(self, nudge: Nudge) -> Executed:
        self._join()
        return self._executor.execute(nudge)

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        publish(self.store, self.publisher, nudges, delay)

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        """Once, by the first beat or the first message, whichever comes first."""
        if self._joined or self._joining:
            return
        self._joining = True
        try:
            self.owner.join()
            self._joined = True
        finally:
            self._joining = False

    def beat(self, *, due: bool) -> None:
        """The heartbeats that came while the clock went on. Only the last one is made, as if the others had been."""
        if not self.alive or self.stopped or self.silent_until > self.sim.passed or self._guard.depth:
            return
        if not due and self._joined and self.sim.passed - self.beaten_at < BEAT_SECONDS:
            return
        if self.beaten_at >= self.sim.passed - LEASE / 2 or not due:
            self.owner._renewed_at = max(self.owner._renewed_at, self.sim.passed - BEAT_SECONDS)
            if self.sim.jumped_at < self.beaten_at:
                self.sim.database.beaten(self.owner._id, self.sim.now() - BEAT_SECONDS + LEASE)
        self.beaten_at = self.sim.passed
        with contextlib.suppress(StageflowError, Crash):
            self._join()
            held = self.owner._id
            self.owner.beat()
            if held is not None and self.owner._id == held:
                self.renewed_at = self.sim.passed

    @property
    def quiet(self) -> bool:
        """Whether none of its jobs goes on."""
        return all(job.done for job in self.jobs)

    @property
    def ended(self) -> bool:
        """Whether nothing of it can act any more."""
        return not self.alive and self.quiet

    @property
    def has_served(self) -> bool:
        """Whether it may be replaced by another child: it has nothing in hand."""
        return self.alive and not self.stopped and self.quiet and not self.prefetched

    def end(self) -> None:
        """End by itself, with nothing in hand."""
        self.sim.note(self, "ends")
        self.owner.retire()
        self.alive = False

    def is_renewed(self) -> bool:
        """Whether its lease holds, as far as it can know."""
        return self.alive and not self.stopped and self.sim.passed - self.renewed_at < LEASE * 0.9

    def carry(self, message: Message) -> Job:
        """Take a message."""
        self.carrying = self.start(f"carry {message}", lambda: self._carry(message))
        return self.carrying

    def _carry(self, message: Message) -> None:
        task = CeleryTask(message)
        try:
            words = understood(task, (message.run, message.strand, message.gen, message.mark), {})
            if words is not None:
                handle_message(task, self, words)
        except Again as again:
            self.reach("before", "retry")
            self.sim.retried(message, task.request.chain, again.countdown)
            self.reach("after", "retry")
        except StageflowError as error:
            self.sim.note(self, "failed", f"{type(error).__name__}: {error}")
        else:
            if task.request.chain:
                self.reach("before", "chain")
                self.sim.chained(task.request.chain)
                self.reach("after", "chain")
        self.sim.acknowledged(message)

    def may_sweep(self) -> bool:
        return self._joined and (self.sweeping is None or self.sweeping.done)

    def sweep(self) -> Job:
        """Sweep, as the process's pulse does."""
        self.sweeping = self.start("sweep", self._sweep)
        return self.sweeping

    def _clock_moved(self, by: float, within: float) -> None:
        self.sweeper.clock_moved(by, within)

    def _sweep(self) -> None:
        with contextlib.suppress(StageflowError):
            self._confirm_ended()
        sweep(self.sim, self, self.sweeper, in_turn=self.sim.healing or self.sim.chance.flip("in turn", 0.5))

    def _confirm_ended(self) -> None:
        """What ``engine.processes`` finds out on a host: all of them are on one."""
        for owner in self.store.awaited(socket.gethostname(), None):
            if self.sim.has_ended(owner.pid):
                self.store.confirm(owner.id, "another process of its host")


def sweep(sim: Simulation, process: Process, sweeper: Sweeper, *, in_turn: bool = False) -> None:
    """One sweep; what it reports as a problem is one. ``in_turn``: unless another process has just swept."""
    try:
        report = sweeper.sweep_in_turn(SWEEP_SECONDS) if in_turn else sweeper.sweep()
    except StageflowError as error:
        sim.note(process, "failed", f"sweep: {type(error).__name__}: {error}")
        return
    if report is None:
        return
    if report.problems:
        raise Violation(f"a sweep reported: {'; '.join(report.problems)}")
    sim.swept(report)
