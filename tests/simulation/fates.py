"""What goes wrong, where and how badly, by chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from stageflow_durable.engine.interrupt import TakenOver
from stageflow_durable.errors import BrokerUnavailable, StoreUnavailable
from stageflow_durable.testing import Crash
from tests.simulation.broker import Message, due_at
from tests.simulation.process import TOUCH_NO_RUN, Job, Process
from tests.simulation.scenario import LEASE

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

PAUSES = [0.5, 3.0, LEASE * 0.8, LEASE * 1.3, LEASE * 2.5, LEASE * 4.5, LEASE * 6]
JUMPS = [1.0, -1.0, 15.0, -8.0, 120.0, -45.0, 3600.0, -3600.0]
BODY_SECONDS = [0.2, 3.0, 12.0, 30.0]
MISHAPS = ["nothing", "all messages lost", "broker away", "redis flushed", "redis away", "clock", "silence"]
WANDERING = [1.0, 1.0, 1.0, 1.0, 1.0, 20.0, 1.0]
"""How likely each is where the clock wanders."""

AT_A_POINT = ("switch", "crash", "pause", "away")


class Likely(NamedTuple):
    """How likely each fate of a point is, and any of them."""

    each: list[float]
    any: float

    @classmethod
    def of(cls, each: list[float]) -> Likely:
        """These, with their sum."""
        return cls(each, sum(each))


class Fates:
    """Decides at each point, for each message, and now and then for the whole site."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        self._rates = sim.setup.rates
        self._at_a_point = Likely.of([self._rates[kind] for kind in AT_A_POINT])
        self._in_body = Likely.of([self._rates[kind] * (4 if kind == "pause" else 1) for kind in AT_A_POINT])

    # --- at a point ---------------------------------------------------------------------------------------------------

    def reached(self, process: Process, when: str, call: str) -> None:
        """A point of the engine's code: check, and perhaps something happens here."""
        if not process.alive:
            raise Crash("the dead do nothing")
        sim = self._sim
        sim.trace.append((sim.passed, process.name, when, call))
        if when == "after" and call not in TOUCH_NO_RUN:
            sim.checks.step(call)
            if sim.violation is not None:
                raise sim.violation
        if sim.healing:
            return
        if sim.current is None or sim.current.process is not process:
            if sim.chance.flip(f"{process.name} {when} {call}", self._rates["away"]):
                raise StoreUnavailable("the database did not answer")
            return
        self._fate(sim.current, process, f"{process.name} {when} {call}", call, self._at_a_point)

    def _fate(self, job: Job, process: Process, name: str, call: str, likely: Likely) -> None:
        if not self._sim.chance.flip(name, likely.any):
            return
        kind = self._sim.chance.pick(f"{name}: what", AT_A_POINT, likely.each)
        if kind == "switch":
            self._sim.note(process, "lets others go on")
            job.stop()
        elif kind == "crash":
            self.die("")
        elif kind == "pause":
            seconds = self._sim.chance.one_of(f"{name}: pause", PAUSES, [1, 1, 1, 2, 3, 3, 1])
            self._sim.note(process, "stands still", f"{seconds:g} s")
            process.stopped_until = self._sim.passed + seconds
            job.stop()
        elif call in ("publish", "chain", "retry"):
            self._sim.note(process, "broker away")
            if call == "publish":
                raise BrokerUnavailable("the connection is gone")
        elif call not in ("gate", "body"):
            self._sim.note(process, "database away")
            raise StoreUnavailable("the connection is gone")

    def in_body(self, where: str) -> None:
        """A point inside a body."""
        assert self._sim.current is not None
        process = self._sim.current.process
        if not process.alive:
            raise Crash("the dead do nothing")
        self._told(process)
        if self._sim.healing:
            return
        if self._sim.chance.flip(f"{where}: takes", 0.2):
            seconds = self._sim.chance.one_of(f"{where}: seconds", BODY_SECONDS)
            self._sim.note(process, "body takes", f"{seconds:g} s")
            self._sim.sleep(seconds)
            self._told(process)
        self._fate(self._sim.current, process, where, "body", self._in_body)

    def _told(self, process: Process) -> None:
        """What the signal does: a body whose work was taken over ends once its process runs, or a little later."""
        if getattr(process, "told_to_end", False) and (self._sim.healing or self._sim.chance.flip("it heeds", 0.6)):
            self._sim.note(process, "body is ended")
            raise TakenOver("its work was taken over")

    def die(self, why: str) -> NoReturn:
        """The process of the current job is dead."""
        assert self._sim.current is not None
        process = self._sim.current.process
        process.alive = False
        self._sim.note(process, "dies", why)
        raise Crash(why)

    # --- to a message, and to the site --------------------------------------------------------------------------------

    def mishap(self, message: Message) -> None:
        """What the broker does to a message that it took."""
        if self._sim.healing:
            return
        rates = self._rates
        about = f"{self._sim.short(message.run)} {message.strand}"
        if self._sim.chance.flip(f"{about} lost", rates["lose"] * 0.3):
            self._sim.broker.waiting.remove(message)
            self._sim.note(None, "lost", str(message))
        elif self._sim.chance.flip(f"{about} doubled", rates["double"] * 0.5):
            self._sim.broker.put(message)
            self._sim.note(None, "doubled", str(message))
        elif self._sim.chance.flip(f"{about} late", rates["late"] * 0.5):
            late = self._sim.chance.one_of(f"{about} late by", [0.5, 5.0, 40.0])
            self._sim.broker.waiting.remove(message)
            self._sim.broker.put(due_at(message, message.due + late))
            self._sim.note(None, "late", f"{message} by {late:g} s")
        elif self._sim.chance.flip(f"{about} forged", rates["forge"] * 0.5):
            how = self._sim.chance.one_of(f"{about} forged how", list(FORGERIES))
            self._sim.note(None, "forged", str(self._sim.broker.put(FORGERIES[how](message))))

    def trouble(self) -> None:
        what = self._sim.chance.pick("mishap", MISHAPS, WANDERING if self._sim.setup.wandering else None)
        if what == "all messages lost":
            self._sim.broker.waiting.clear()
        elif what == "broker away":
            self._sim.broker.away_until = self._sim.passed + self._sim.chance.one_of("away for", [1.0, 8.0, 70.0])
        elif what == "redis flushed":
            self._sim.gate.flush()
        elif what == "redis away":
            self._sim.gate.away_until = self._sim.passed + 20.0
        elif what == "clock":
            jump = self._sim.chance.one_of("jump", JUMPS)
            self._sim.jumped += jump
            self._sim.leapt += max(jump, 0.0)
            self._sim.jumped_at = self._sim.passed
            what = f"database clock jumps by {jump:g} s"
        elif what == "silence" and self._sim.able():
            worker = self._sim.able()[self._sim.chance.number("whose heartbeat", 0, len(self._sim.able()) - 1)]
            worker.silent_until = self._sim.passed + LEASE * 2
            what = f"{worker.name} does not beat for {LEASE * 2:g} s"
        self._sim.note(None, what)


MADE_UP = f"7.0 7 {'0a' * 32} {'0b' * 12} s0"

FORGERIES: dict[str, Callable[[Message], Message]] = {
    "a later fence": lambda message: message._replace(gen=message.gen + 1),
    "an earlier fence": lambda message: message._replace(gen=message.gen - 1),
    "a fence that no column holds": lambda message: message._replace(gen=2**40),
    "an undo": lambda message: message._replace(strand=f"undo:{message.strand}"),
    "another strand": lambda message: message._replace(strand="s1"),
    "a strand that no column holds": lambda message: message._replace(strand="s\x00"),
    "no run": lambda message: message._replace(run="0" * 26),
    "a run that is no id": lambda message: message._replace(run="' or 1=1 --"),
    "a hint": lambda message: message._replace(mark=MADE_UP),
    "a mark that is none": lambda message: message._replace(mark="7.0 \x00" + "x" * 5000),
    "another queue": lambda message: message._replace(queue="q" * 300),
    "redelivered": lambda message: message._replace(redelivered=True, retries=message.retries + 7),
    "without its tail": lambda message: message._replace(tail=()),
}
"""What somebody who reaches the broker puts beside a true message."""
