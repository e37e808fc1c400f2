"""One seed: who goes on next, and what goes wrong, decided by chance alone; the invariants after every transaction."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from hashlib import blake2b
from typing import Any
from unittest.mock import patch

from stageflow_durable.engine.recover import Sweeper
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.roster import Known, Profile
from stageflow_durable.model.run import SweepReport
from stageflow_durable.store.values import StrandRef
from stageflow_durable.testing.clock import START
from stageflow_durable.transitions import groups
from stageflow_durable.transitions.rows import UNTIL_CONFIRMED
from tests.items import items_for
from tests.simulation import scenario
from tests.simulation.bench import Bench, MemoryBench, known_ids
from tests.simulation.bodies import Bodies, stage, undo
from tests.simulation.broker import Broker, Gate, Message, due_at
from tests.simulation.chance import Answers, Chance
from tests.simulation.checks import Checks
from tests.simulation.fates import Fates
from tests.simulation.interlude import INTERLUDES
from tests.simulation.ledger import Ledger, Request, Violation
from tests.simulation.outside import URLS, Outside
from tests.simulation.people import Client, Operator
from tests.simulation.process import BROKER, Job, Process, Worker
from tests.simulation.senders import Senders

NOTICED_WITHIN = 150.0
"""Seconds within which a process that has ended has lost what it held, and a message that was lost is published again,
once nothing goes wrong any more: two leases of 10 s, and steps of up to 60 s between sweeps.
"""

LIFE_SECONDS = 1.0
"""How old a child becomes where none grows old."""

FOREVER = 3 * 3600.0
"""Seconds of the simulated clock within which everything has to be at rest once nothing goes wrong any more."""

PATIENCE = 200.0
"""Seconds after which somebody ends the parked runs: others may wait for a business key that one of them holds."""

STEPS = ["next", "0.01", "0.3", "1.1", "2.6", "5.1", "10.1", "26", "61", "700"]
ORDINARY: list[float] = [10, 2, 3, 4, 3, 3, 3, 2, 1, 0.3]
IDLE: list[float] = [40, 0.5, 0.5, 1, 2, 3, 3, 2, 1, 0.3]
STILL: list[float] = [4, 0.5, 0.5, 1, 2, 4, 8, 8, 4, 0.3]
"""How likely each step is: ordinarily, when nobody has anything to do, and while a process stands still."""
Trace = list[tuple[float, str, str, str]]


class Simulation:
    """One seed on a bench."""

    def __init__(self, bench: Bench | MemoryBench, seed: int | None, answers: Answers | None = None) -> None:
        self.chance = Chance(seed, answers)
        self.database: Any = bench.database  # of either kind
        self.passed = 0.0
        self.jumped = self.leapt = 0.0
        self.jumped_at = float("-inf")
        self.database.use(self.now)
        self.trace: Trace = []
        self.violation: Violation | None = None
        self.healing = True
        self.unheard_of: str | None = None
        self.starving = False
        self.sent: list[Request] = []
        self.current: Job | None = None
        self.jobs: list[Job] = []
        self.processes: list[Process] = []
        self.setup = scenario.setup(self.chance)
        self.store = bench.store(optimistic=self.setup.optimistic)
        self.ledger = Ledger()
        self.urls = URLS
        self.broker = Broker(lambda: self.passed, self.setup.in_place)
        self.gate = Gate(lambda: self.passed)
        self.bodies = Bodies(self)
        self.checks = Checks(self)
        self.found = 0
        self._hired = self._turns = 0
        self._dice = random.Random(1)  # who gets a message is nobody's fault
        self._names: dict[str, str] = {}
        self._profiles: dict[tuple[str, ...], Profile] = {}
        self._unacknowledged: dict[int, tuple[Message, Process]] = {}
        self.fates = Fates(self)
        names = [f"p{number}" for number in range(self.chance.number("pipelines", 1, 2))]
        self.pipelines = {name: scenario.pipeline(self.chance, name, stage, undo) for name in names}
        self.waiting = any(scenario.WORD in pipeline.by_name for pipeline in self.pipelines.values())
        self.items = {
            place: what for one in self.pipelines.values() for place, what in scenario.items(self.chance, one).items()
        }
        self.asking = any(scenario.RELEASE in pipeline.by_name for pipeline in self.pipelines.values())
        self.client = Client(self)
        self.operator = Operator(self)
        self.senders = Senders(self)
        self.outside = Outside(self)
        self.parent = Process(self, "parent")
        self.workers: list[Worker] = []

    def profile(self, knows: Iterable[str]) -> Profile:
        """That of all workers that know these pipelines."""
        names = tuple(knows)
        if names not in self._profiles:
            plans = {name: self.pipelines[name].plan for name in names}
            known = {name: Known(plan.version, plan.digest) for name, plan in plans.items()}
            self._profiles[names] = Profile("simulated", BROKER, (Worker.queue, "other"), known)
        return self._profiles[names]

    # --- time ---------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The database's clock."""
        return START + self.passed + self.jumped

    def draw(self, low: float, high: float) -> float:
        return low + (high - low) * self.chance.one_of("draw", [0.5, 0.0, 1.0, 0.1])

    def sleep(self, seconds: float) -> None:
        """Somebody waits."""
        if self.current is None:
            self.passed += seconds
        else:
            self.current.stop(self.passed + seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass; whoever lives and does not stand still renews its lease."""
        still = [worker.stopped for worker in self.workers]
        self.passed += seconds
        self._receive()
        for worker, was_still in zip(self.workers.copy(), still, strict=True):
            worker.beat(due=was_still)
        if self.setup.recycled:
            self._recycle()
        self._hire()

    def _receive(self) -> None:
        """The remote side gets what processes sent before they died."""
        for request in [request for request in self.sent if request.due <= self.passed]:
            self.sent.remove(request)
            applied = self.ledger.act(request.run, request.stage, request.key, request.since)
            self.note(None, "arrives", f"{request.stage}: {'applied' if applied else 'refused'}")

    # --- what happens -------------------------------------------------------------------------------------------------

    def note(self, who: Process | None, what: str, about: str = "") -> None:
        self.trace.append((self.passed, "" if who is None else who.name, what, about))

    def short(self, run: str) -> str:
        return self._names.setdefault(run, f"r{len(self._names) + 1}")

    def broken(self, violation: Violation, cause: BaseException | None = None) -> None:
        """Remember the first violation."""
        if self.violation is None:
            violation.__cause__ = cause
            self.violation = violation
            self.note(None, "VIOLATION", str(violation))

    def worker(self) -> Worker:
        """The one whose job goes on now."""
        assert self.current is not None and isinstance(self.current.process, Worker)
        return self.current.process

    def retried(self, message: Message, chain: Any, countdown: float) -> None:
        """Celery's retry publishes the message anew."""
        again = Message(
            message.run,
            message.strand,
            message.gen,
            message.mark,
            message.queue,
            self.passed + countdown,
            tuple(chain or ()),
            message.retries + 1,
        )
        self.fates.mishap(self.broker.put(again))

    def chained(self, chain: tuple[Message, ...]) -> None:
        """Celery publishes the next link."""
        head = chain[0]
        self.fates.mishap(
            self.broker.put(
                Message(head.run, head.strand, head.gen, head.mark, head.queue, self.passed, tuple(chain[1:]))
            )
        )

    def acknowledged(self, message: Message) -> None:
        """The message is done with."""
        self._unacknowledged.pop(message.number, None)

    def swept(self, report: SweepReport) -> None:
        """A sweep found this many things to do; nothing that it would have to repair."""
        if report.repaired:
            self.broken(Violation(f"11: a sweep repaired {report.repaired} runs that nothing would have moved"))
        found = report.owners_dead + report.taken + report.woken + report.nudged + report.deadlines + report.released
        self.found += found

    def signal_meanwhile(self, due: Sequence[StrandRef]) -> None:
        """Somebody may send a signal to a wait that a sweep has just found to be due."""
        self.senders.meanwhile(due)

    def has_ended(self, pid: int) -> bool:
        """Whether a worker's process has ended."""
        return not any(worker.pid == pid and not worker.ended for worker in self.workers)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _hire(self) -> None:
        """Workers that died are replaced, and their messages come again."""
        for worker in self.workers.copy():
            if worker.alive or not worker.quiet:
                continue
            self.workers.remove(worker)
            self._return_messages(worker)
            if self.healing or not self.able() or not self.chance.flip(f"{worker.name} is not replaced", 0.3):
                self._hire_one()
            if not self.healing and self.chance.flip(f"{worker.name} was seen to die", 0.4):
                self.note(self.parent, "saw it die", worker.name)
                self.parent.start(
                    f"burial of {worker.name}",
                    lambda dead=worker: self._bury(dead),  # type: ignore[misc]  # bound now
                )

    def _bury(self, worker: Worker) -> None:
        """What the pool's parent does when a child is gone."""
        sweeper = Sweeper(self.parent.store, self.parent.publisher, self.parent.patience())
        try:
            sweeper.process_killed(worker.boot, worker.pid)
        except StoreUnavailable:
            self.note(self.parent, "failed", "burial")

    def _return_messages(self, worker: Worker) -> None:
        for number, (message, holder) in list(self._unacknowledged.items()):
            if holder is not worker:
                continue
            del self._unacknowledged[number]
            fate = self.chance.pick(f"message of {worker.name}", ["at once", "lost", "after 5 s", "after 700 s"])
            delay = {"at once": 0.0, "after 5 s": 5.0, "after 700 s": 700.0}.get(fate)
            self.note(worker, "its message", f"{message}: {fate}")
            if delay is not None:
                self.broker.put(due_at(message, self.passed + delay, redelivered=True))

    def _hire_one(self, before: Worker | None = None) -> None:
        self._hired += 1
        worker = Worker(self, f"w{self._hired}", before)
        self.workers.append(worker)
        worker.beat(due=True)

    def _recycle(self) -> None:
        """Children end after some work, and others come in their place."""
        for worker in self.workers.copy():
            if worker.has_served and self.passed - worker.started_at >= LIFE_SECONDS:
                worker.end()
                self.workers.remove(worker)
                self._hire_one(worker)

    def able(self) -> list[Worker]:
        passed = self.passed
        return [worker for worker in self.workers if worker.alive and worker.stopped_until <= passed]

    def idle(self) -> list[Worker]:
        if self.starving:
            return []
        return [worker for worker in self.able() if worker.carrying is None or worker.carrying.done]

    def runnable(self) -> list[Job]:
        if not self.jobs:
            return []
        self.jobs = [job for job in self.jobs if not job.done]
        return [job for job in self.jobs if job.may_go(self.passed)]

    # --- the course of things -----------------------------------------------------------------------------------------

    def run(self) -> Violation | None:
        """Play the seed; returns what was broken."""
        with known_ids(), self._with_items() if self.items else nullcontext():
            self.database.begun()
            Bodies.played = self.bodies
            self.store.register([pipeline.plan for pipeline in self.pipelines.values()])
            for _worker in range(self.setup.workers):
                self._hire_one()
            self.client.submit()
            for chapter in range(self.setup.chapters):
                if chapter:
                    self.operator.begin()
                self._chapter()
                if self.violation is not None:
                    break
            self._clear()
        return self.violation

    @contextmanager
    def _with_items(self) -> Iterator[None]:
        """Stages have their items, in small groups, so that few items are in several."""
        with items_for(self.items), patch.object(groups, "ITEMS_A_GROUP", 2):
            yield

    def _chapter(self) -> None:
        try:
            self.healing = False
            for _move in range(self.setup.moves):
                self._move()
                if self.violation is not None:
                    return
            self._heal()
            if self.violation is None:
                self.checks.rest()
        except Violation as violation:
            self.broken(violation)

    def _clear(self) -> None:
        """End what is left on its lines."""
        for process in {job.process for job in self.jobs}:
            process.alive = False
        for job in self.jobs:
            while not job.done:
                job.go()

    def _move(self) -> None:
        going = self.runnable()
        free = [worker for worker in self.able() if worker.may_sweep()]
        still = any(worker.stopped for worker in self.workers)
        moves = self._moves(going, sweepers=bool(free), still=still)
        idle = next(iter(moves)) == "pass time"
        move = self.chance.pick("move", list(moves), list(moves.values()))
        if move.startswith("go on: "):
            next(job for job in going if move == job.move).go()
        elif move == "deliver":
            self._deliver(in_order=False)
        elif move == "prefetch":
            self._prefetch()
        elif move == "pass time":
            self._pass(STILL if still else IDLE if idle else ORDINARY)
        elif move == "sweep":
            sweeper = self.chance.pick("who sweeps", [worker.name for worker in free])
            next(worker for worker in free if worker.name == sweeper).sweep().go()
        elif move in _BY_PEOPLE:
            _BY_PEOPLE[move](self)
        else:
            self.fates.trouble()

    def _moves(self, going: list[Job], *, sweepers: bool, still: bool) -> dict[str, float]:
        """What may happen next, and how likely each is."""
        moves = {job.move: 6.0 for job in going}
        idle, due = self.idle(), self.broker.due()
        if idle and (due or self._prefetched(idle)):
            moves["deliver"] = 12.0
        if self.setup.prefetch and due and self._busy():
            moves["prefetch"] = 4.0
        moves["pass time"] = 4.0 if still or not moves else 1.5
        if sweepers:
            moves["sweep"] = 3.0 if still else 1.0
        if self.waiting:
            moves["signal"] = 1.0
        if self.outside.handed:
            moves["call back"] = 2.0
        if self.asking:
            moves["decide"] = 1.5
        return moves | {"ask": 0.7, "submit": 0.4, "mishap": self.setup.rates["mishap"]}

    def _busy(self) -> list[Worker]:
        """Who takes a message in advance."""
        idle = self.idle()
        return [one for one in self.able() if one not in idle and len(one.prefetched) < self.setup.prefetch]

    def _prefetched(self, idle: list[Worker]) -> Worker | None:
        """A worker that can go on with a message that it took before."""
        return next((worker for worker in idle if worker.prefetched), None)

    def _prefetch(self) -> None:
        waiting, busy = self.broker.due(), self._busy()
        message = waiting[self.chance.number("which message", 0, len(waiting) - 1)]
        self._take_in_advance(message, busy[self.chance.number("which worker", 0, len(busy) - 1)])

    def _take_in_advance(self, message: Message, worker: Worker) -> None:
        self.broker.waiting.remove(message)
        self._unacknowledged[message.number] = message, worker
        worker.prefetched.append(message)
        self.note(worker, "prefetches", f"{self.short(message.run)} {message}")

    def _deliver(self, *, in_order: bool) -> None:
        waiting, idle = self.broker.due(), self.idle()
        holder = self._prefetched(idle)
        if holder is not None:
            message = holder.prefetched.pop(0)
            self.note(holder, "takes", f"{self.short(message.run)} {message}")
            holder.carry(message).go()
            return
        message, worker = waiting[0], idle[self._dice.randrange(len(idle))]
        if not in_order:
            message = waiting[self.chance.number("which message", 0, len(waiting) - 1)]
            worker = idle[self.chance.number("which worker", 0, len(idle) - 1)]
        self.broker.waiting.remove(message)
        if not in_order and self.chance.flip("delivered twice", self.setup.rates["double"] * 0.3):
            self.broker.put(due_at(message, message.due, redelivered=True))
        self._unacknowledged[message.number] = message, worker
        self.note(worker, "takes", f"{self.short(message.run)} {message}")
        worker.carry(message).go()

    def _pass(self, weights: list[float]) -> None:
        step = self.chance.pick("time", STEPS, weights)
        seconds = self._until_next() if step == "next" else float(step)
        self.note(None, "time", f"{seconds:g} s")
        self.advance(seconds)

    def _until_next(self) -> float:
        moments = [moment for moment in (self.broker.next_due(),) if moment is not None]
        moments += [job.until for job in self.jobs if not job.done]
        moments += [worker.stopped_until for worker in self.workers]
        waiting = [row.wake_at for row in self.database.see("strands") if row.state == "waiting"]
        due = min((at for at in waiting if at is not None and at < UNTIL_CONFIRMED), default=None)
        moments += [] if due is None else [due - START - self.jumped + 0.26]
        later = [moment for moment in moments if moment > self.passed]
        return min(later) - self.passed + 0.001 if later else 1.1

    # --- nothing goes wrong any more ----------------------------------------------------------------------------------

    def _heal(self) -> None:
        self.healing = True
        self.note(None, "from here on nothing goes wrong")
        self.broker.away_until = self.gate.away_until = float("-inf")
        for worker in self.workers:
            worker.silent_until = 0.0
        if self.setup.interlude != "none":
            INTERLUDES[self.setup.interlude](self)
        while not any(len(worker.knows) == len(self.pipelines) for worker in self.workers if worker.alive):
            self._hire_one()
        until, patient_until = self.passed + FOREVER, self.passed + PATIENCE
        self.checks.nothing_is_wrong_since = self.passed
        pause = 0.3
        while self.violation is None:
            if self.work():
                pause = 0.3
                continue
            if self._at_rest():
                return
            self._is_noticed()
            if self.passed > patient_until:
                patient_until = self.passed + PATIENCE  # a run may be parked after others were given up
                self.operator.give_up()
                self.senders.answer()
                continue
            if self.passed > until:
                raise Violation(f"not at rest after {FOREVER:g} s in which nothing went wrong: {self._active()}")
            step = min(self._longest_step(), max(pause, self._until_next()))
            self.advance(step)
            self.note(None, "time", f"{step:g} s")
            # A sweep before what is due now is done, and one after: else each would find a message in the queue.
            if self._turns % 2:
                self._work_off()
            pause = 0.3 if self.sweep_once() else step * 1.5

    def _work_off(self) -> None:
        """Everything that can be done now."""
        while self.violation is None and self.work():
            pass

    def _is_noticed(self) -> None:
        """What died or was lost before is found in time; who stands still may have been the only one to look."""
        if any(worker.stopped for worker in self.workers):
            self.checks.nothing_is_wrong_since = self.passed
        elif self.passed - self.checks.nothing_is_wrong_since > NOTICED_WITHIN:
            self.checks.noticed(NOTICED_WITHIN)

    def _longest_step(self) -> float:
        """Who stands still is to be missed by the others before it wakes."""
        return 5.1 if any(worker.stopped for worker in self.workers) else 60.0

    def work(self) -> bool:
        """One thing that can be done now; whether there was any."""
        going = self.runnable()
        if going:
            going[0].go()
            return True
        idle, due = self.idle(), self.broker.due()
        if idle and (due or self._prefetched(idle)):
            self._deliver(in_order=True)
            return True
        if self.starving and due and self.able():
            self._take_in_advance(self.broker.due()[0], self.able()[0])
            return True
        return False

    def sweep_once(self) -> bool:
        """One worker sweeps; whether it found anything."""
        before = self.found
        able = [worker for worker in self.able() if worker.may_sweep()]
        if able:
            self._turns += 1
            able[self._turns % len(able)].sweep().go()
        return self.found > before

    def _at_rest(self) -> bool:
        if any(not job.done for job in self.jobs) or self.client.waits or self.sent:
            return False
        return all(row.phase == "settled" for row in self.database.see("runs"))

    def _active(self) -> str:
        rows = [row for row in self.database.see("runs") if row.phase != "settled"]
        return "; ".join(f"{self.short(row.id)} is {row.status}" for row in rows) or "a job goes on"

    def forget(self) -> None:
        """Cut the circles of references: looking for them takes the collector longer than a tenth of the seed."""
        self.bodies.forget()
        parts = (self.client, self.operator, self.senders, self.outside, self.fates, self.checks)
        for part in (*self.processes, *parts):
            vars(part).clear()
        kept = self.chance, self.trace
        vars(self).clear()
        self.chance, self.trace = kept

    def hash(self) -> str:
        """The whole trace in one number."""
        digest = blake2b(digest_size=16)
        for line in self.trace:
            digest.update(repr(line).encode())
        return digest.hexdigest()


_BY_PEOPLE: dict[str, Callable[[Simulation], object]] = {
    "ask": lambda sim: sim.operator.begin(),
    "submit": lambda sim: sim.client.again(),
    "signal": lambda sim: sim.senders.begin(),
    "decide": lambda sim: sim.senders.decide(),
    "call back": lambda sim: sim.outside.begin(),
}
"""Moves of those who are no part of the engine."""
