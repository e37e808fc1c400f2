"""An engine for tests: the real one, on a database of its own, with a worker, a broker and a clock in the test's
process.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from stageflow_durable.application import Engine
from stageflow_durable.clock import Draw, World
from stageflow_durable.connect import memory_store, store_on
from stageflow_durable.duration import seconds_of
from stageflow_durable.engine.actors import Authenticate, Authorize
from stageflow_durable.engine.approval_links import LinkUrls
from stageflow_durable.engine.callbacks import CallbackUrls
from stageflow_durable.engine.recover import Patience
from stageflow_durable.errors import ConfigurationError
from stageflow_durable.model.context import Observer
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.roster import Known
from stageflow_durable.model.run import RunSummary, SweepReport
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.settings import Settings
from stageflow_durable.state.database import Database
from stageflow_durable.state.schema import upgrade
from stageflow_durable.store.memory import MemoryStore
from stageflow_durable.store.protocol import Store
from stageflow_durable.testing.clock import FakeClock
from stageflow_durable.testing.faults import Crash, Faults, bury, with_crash_points
from stageflow_durable.testing.messages import Messages
from stageflow_durable.testing.worker import InProcessWorker

TICK = 0.001
"""How far the clock goes beyond a due moment, in seconds: what is due is due strictly after it."""

TEST_URL = "https://engine.test"
"""Where the callbacks of an engine for tests would be served."""

LONGEST = 3600.0
"""Seconds of the fake clock that :meth:`InProcessEngine.drain` goes on for unless told otherwise."""

_ACTIVE = tuple(status for status in RunStatus if status not in AT_REST)


class StillGoing(AssertionError):
    """Runs did not come to rest; the message lists them."""

    def __init__(self, why: str, runs: Sequence[RunSummary]) -> None:
        listed = "; ".join(f"{run.run_id} ({run.pipeline}) is {run.status}" for run in runs) or "none is active"
        super().__init__(f"{why}: {listed}")


def middle(low: float, high: float) -> float:
    """The chance of tests: always the middle."""
    return low + (high - low) / 2


class InProcessEngine(Engine):
    """An :class:`~stageflow_durable.Engine` whose messages are carried by the test itself; see
    :func:`engine_for_tests`.

    Everything an engine does is here as well: ``enqueue``, ``cancel``, ``resume``, ``settle``, ``history`` …

    ``clock``: move it with :meth:`advance`. ``faults``: where something goes wrong. ``messages``: the broker.
    ``crew``: the workers alive; ``crashes`` counts those that died. ``watched``: whether the death of a worker is seen
    at once, as a pool's parent sees that of its child; else its lease has to run out. ``problems``: what the sweeps
    reported, empty as it should be.
    """

    def __init__(
        self,
        name: str,
        pipelines: Iterable[Pipeline[Any, Any]],
        settings: Settings,
        *,
        clock: FakeClock,
        store: Store,
        draw: Draw = middle,
        retry: RetryPolicy | None = None,
        interceptors: Sequence[Any] | None = None,
        observers: Sequence[Observer] = (),
        authenticate: Authenticate | None = None,
        authorize: Authorize | None = None,
        sinks: Sequence[Any] = (),
        on_attention: Any = None,
        workers: int = 1,
    ) -> None:
        self.faults = Faults()
        self.messages = Messages(clock, self.faults)
        super().__init__(
            name,
            pipelines,
            retry=retry,
            interceptors=interceptors,
            observers=observers,
            authenticate=authenticate,
            authorize=authorize,
            sinks=sinks,
            on_attention=on_attention,
            settings=settings,
            store=with_crash_points(store, self.faults),
            publisher=self.messages,
            world=World(clock, draw),
        )
        self.clock = clock
        self.crashes = 0
        self.watched = False
        self.problems: list[str] = []
        self._dead: set[str] = set()
        self._carrying = 0
        self.crew = [self.hired() for _number in range(workers)]
        clock.idle = self._while_waiting

    @cached_property
    def _callback_urls(self) -> CallbackUrls:
        """Those of a test need neither a server nor a key of anybody's."""
        settings = self.settings
        return CallbackUrls(settings.public_url or TEST_URL, settings.audit_key or TEST_URL)

    @cached_property
    def _link_urls(self) -> LinkUrls:
        settings = self.settings
        return LinkUrls(settings.public_url or TEST_URL, settings.audit_key or TEST_URL)

    @cached_property
    def _patience(self) -> Patience:
        return Patience(0.0, grace=0.0, max_lost=self.settings.max_recoveries)

    def _attach_to_worker(self) -> None:
        """Nothing to attach to: no Celery worker runs this engine."""

    def hired(self, *pipelines: Pipeline[Any, Any]) -> InProcessWorker:
        """A new worker, not yet in the ``crew``; ``pipelines``: what it knows, left out: what the engine knows."""
        known = {pipeline.name: pipeline for pipeline in pipelines} or self.pipelines
        versions = {name: Known(found.plan.version, found.plan.digest) for name, found in known.items()}
        return InProcessWorker(
            os.urandom(6).hex(),
            self.store,
            self.messages,
            known,
            self.settings,
            self._world,
            retry=self._retry,
            interceptors=self._interceptors,
            observers=self._observers,
            profile=replace(self.profile, pipelines=versions),
            callback_url=self._callback_urls.url,
        )

    def deploy(self, *pipelines: Pipeline[Any, Any]) -> None:
        """Replace the pipelines, register them, and replace the crew by workers that know them; what was known before
        is the newest again.
        """
        self.pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self.clock.advance(TICK)  # the newest is told by its time
        self.store.register([pipeline.plan for pipeline in pipelines], boot=os.urandom(6).hex())
        for worker in self.crew:
            worker.owner.retire()
        self.crew = [self.hired() for _worker in self.crew]

    # --- time ---------------------------------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Let time pass; living workers renew their leases when it has."""
        self.clock.advance(seconds)
        self._beat()

    def _beat(self) -> None:
        for worker in self.crew:
            worker.beat()

    # --- work ---------------------------------------------------------------------------------------------------------

    def step(self, worker: InProcessWorker | None = None) -> bool:
        """Deliver one message that is due; False when there is none. ``worker``: who gets it; left out, chance
        decides.
        """
        nudge = self.messages.take()
        if nudge is None:
            return False
        chosen = worker or self._any_worker()
        self._carrying += 1
        try:
            chosen.carry(nudge)
        except Crash as crash:
            self._died(chosen, crash)
        finally:
            self._carrying -= 1
        return True

    def _any_worker(self) -> InProcessWorker:
        return self.crew[int(self._world.draw(0, len(self.crew)))]

    def _died(self, worker: InProcessWorker, crash: Crash) -> None:
        bury(crash)
        worker.alive = False
        self._dead.add(worker.boot)
        self.crashes += 1
        self.crew = [self.hired() if one is worker else one for one in self.crew]
        if self.watched:
            self._sweeper.process_killed(worker.boot, os.getpid())

    def work(self) -> int:
        """Deliver every message that is due, and those that come of them; returns how many that were."""
        count = 0
        while self.step():
            count += 1
        return count

    def sweep(self) -> SweepReport:
        """One recovery sweep. One that dies half-way takes the first worker with it."""
        try:
            self._confirm_ended()
            report = super().sweep()
        except Crash as crash:
            self._died(self.crew[0], crash)
            return SweepReport()
        self.problems += report.problems
        return report

    def _confirm_ended(self) -> None:
        """What the next worker of a host finds out about those that died there."""
        for owner in self.store.awaited(socket.gethostname(), None) if self._dead else ():
            if owner.id.partition("-")[0] in self._dead:
                self.store.confirm(owner.id, "another process of its host")

    def drain(self, seconds: float | timedelta = LONGEST) -> None:
        """Deliver messages and sweep until every run is at rest; the clock jumps over the time in which nothing
        happens.

        Raises StillGoing when that takes more than ``seconds`` (or a timedelta) of the clock, one hour unless said
        otherwise, or when a run is active and nothing will ever move it.
        """
        until = self.clock.time() + seconds_of(seconds)
        while self._moved():
            moment = self.next_due()
            if moment is not None and moment > until:
                raise StillGoing(f"not at rest after {seconds_of(seconds):g} s", self.runs(status=_ACTIVE))
        active = self.runs(status=_ACTIVE)
        if active:
            raise StillGoing("nothing is left that would move them", active)

    async def adrain(self, seconds: float | timedelta = LONGEST) -> None:
        """:meth:`drain` in a thread, for an ``async def`` test: meanwhile its own loop goes on, with whatever the
        stages talk to there.
        """
        await asyncio.to_thread(self.drain, seconds)

    def _moved(self) -> bool:
        if self.work() or _found(self.sweep()):
            return True
        moment = self.next_due()
        if moment is None:
            return False
        # What is overdue and does not move waits for something else: time goes on as it does between two sweeps.
        pause = 0.0 if moment >= self.clock.time() else self.settings.sweep_seconds
        self.clock.advance_to(max(moment + TICK, self.clock.time() + pause))
        self._beat()
        return True

    def next_due(self) -> float | None:
        """When there will be something to do, in seconds since the epoch by the clock; None: never, unless somebody
        asks for something.
        """
        patience = None if len(self.messages) else self._patience.lost  # while messages wait, none counts as lost
        known = self.store.next_due(patience)
        return min((moment for moment in (known, self.messages.next_due()) if moment is not None), default=None)

    def _while_waiting(self, _seconds: float) -> None:
        """Somebody polls (``handle.result()``): do what is due meanwhile. While a worker sleeps nobody else works."""
        if self._carrying:
            return
        self._beat()
        if not self.work() and not _found(self.sweep()) and self.next_due() is None:
            raise StillGoing("nothing is left that would move them", self.runs(status=_ACTIVE))


def _found(report: SweepReport) -> bool:
    done = (
        report.owners_dead,
        report.taken,
        report.woken,
        report.nudged,
        report.deadlines,
        report.released,
        report.repaired,
    )
    return any(done)


@contextmanager
def engine_for_tests(
    *pipelines: Pipeline[Any, Any] | Iterable[Pipeline[Any, Any]],
    name: str = "tests",
    store: Literal["sqlite", "memory"] | MemoryStore = "sqlite",
    database_url: str | None = None,
    clock: FakeClock | None = None,
    draw: Callable[[float, float], float] = middle,
    retry: RetryPolicy | None = None,
    interceptors: Sequence[Any] | None = None,
    observers: Sequence[Observer] = (),
    authenticate: Authenticate | None = None,
    authorize: Authorize | None = None,
    sinks: Sequence[Any] = (),
    on_attention: Any = None,
    workers: int = 1,
    **settings: Any,
) -> Iterator[InProcessEngine]:
    """A context manager: an engine on a new SQLite file, or on a ``store`` in memory, with ``workers`` workers in this
    process and nothing outside it.

    >>> from stageflow_durable import Pipeline
    >>> greeting = Pipeline("greeting").stage("greet", lambda ctx: f"hello {ctx.input['name']}")
    >>> with engine_for_tests([greeting]) as engine:
    ...     handle = engine.enqueue("greeting", {"name": "Ada"})
    ...     engine.drain()
    ...     handle.result()
    {'greet': 'hello Ada'}

    ``pipelines``: one after the other, or a list of them.

    ``store``: ``"memory"`` is faster, and has no ``ctx.session``; several engines may be given one
    :class:`~stageflow_durable.store.memory.MemoryStore`. ``database_url``: another database, whose schema is up to date
    (its clock is its own, unless ``clock.moved`` sets it). ``draw``: chance, the middle unless said otherwise.
    ``retry``, ``interceptors``, ``observers``, ``authenticate``, ``authorize``, ``sinks`` and ``on_attention``: as of
    :class:`~stageflow_durable.Engine`; sinks are told by :meth:`~stageflow_durable.Engine.deliver`. ``settings``: as of
    :class:`~stageflow_durable.settings.Settings`, e.g. ``lease_seconds=2`` or ``in_place_stages=1``.
    """
    clock = clock or FakeClock()
    with ExitStack() as stack:
        url = database_url or (_new_database(stack) if store == "sqlite" else _NO_DATABASE)
        given = Settings(database_url=url, broker_url="memory://", **settings)
        engine = InProcessEngine(
            name,
            _flat(pipelines),
            given,
            clock=clock,
            store=_store(store, given, clock, named=database_url),
            draw=draw,
            retry=retry,
            interceptors=interceptors,
            observers=observers,
            authenticate=authenticate,
            authorize=authorize,
            sinks=sinks,
            on_attention=on_attention,
            workers=workers,
        )
        stack.callback(engine.close)
        yield engine


def _flat(pipelines: Iterable[Any]) -> list[Any]:
    """Pipelines, however they were given; what is none is left for the engine to refuse."""
    found: list[Any] = []
    for one in pipelines:
        found += one if isinstance(one, Iterable) and not isinstance(one, str | Mapping) else [one]
    return found


_NO_DATABASE = "sqlite:///none"
"""What the settings name where nothing is opened."""


def _store(kind: str | MemoryStore, settings: Settings, clock: FakeClock, named: str | None) -> Store:
    if kind != "sqlite" and named is not None:
        raise ConfigurationError("give store= or database_url=, not both")
    if kind == "memory":
        return memory_store(settings, clock.time)
    if isinstance(kind, str):
        if kind != "sqlite":
            raise ConfigurationError(f"store={kind!r}: 'sqlite', 'memory', or a MemoryStore")
        database = Database(settings.require().database_url, synchronous="NORMAL", clock=clock.time)
        return store_on(database, settings)
    return kind


def _new_database(stack: ExitStack) -> str:
    directory = Path(stack.enter_context(TemporaryDirectory(prefix="stageflow-test-")))
    path = directory / "stageflow.db"
    path.write_bytes(_empty_database())
    return f"sqlite:///{path}"


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    """A migrated, empty file; copying it is faster than migrating each time."""
    with TemporaryDirectory(prefix="stageflow-test-") as directory:
        path = Path(directory) / "empty.db"
        upgrade(f"sqlite:///{path}")
        return path.read_bytes()
