"""A supervisor of child processes: starts them, starts them again, shows what they print, stops them in order."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stageflow_durable.embedded.children import Follower, Process, kill, kill_group, spawn
from stageflow_durable.embedded.identity import Identity, identify
from stageflow_durable.embedded.private import OTHERS
from stageflow_durable.engine.attempt_log import one_line

Say = Callable[[str], None]
Clock = Callable[[], float]
TICK_SECONDS = 0.05
# How often it is told who is still waited for.
TOLD_SECONDS = 2.0
# A child that lives this long did start; one that does not, several times in a row, never will.
SETTLED_SECONDS = 5.0
QUICK_DEATHS = 5
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Role:
    """A child to keep running. ``rank``: lower ones are stopped first, and their end is awaited before the next.

    ``stop_seconds``: from SIGTERM to SIGKILL. ``environment`` is added to ours. ``private``: others may not read the
    files that it makes.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    rank: int = 0
    stop_seconds: float = 10.0
    private: bool = False


def pause_after(deaths: int) -> float:
    """Seconds to wait before the next start, after so many deaths in a row: doubling, bounded."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(deaths - 1, 16)) if deaths else 0.0


class _Child:
    def __init__(self, role: Role, log: Path, clock: Clock, deaths: int) -> None:
        self.role = role
        self._deaths = deaths
        self.log = log
        self.follower = Follower(log)
        self._clock = clock
        self._started_at = 0.0
        self._due = 0.0
        self.process: Process | None = None
        self.quick_deaths = 0

    def start_if_due(self) -> bool:
        if self.process is not None or self.hopeless or self._clock() < self._due:
            return False
        # We die, it dies at once: what it was doing is retried by the next start, and nothing lingers.
        self.process = spawn(
            self.role.argv,
            log=self.log,
            environment=self.role.environment,
            at_our_death=signal.SIGKILL,
            umask=OTHERS if self.role.private else -1,
        )
        self._started_at = self._clock()
        return True

    def bury_if_dead(self) -> int | None:
        """The exit status of a child that has ended since; the next start is then due after a pause."""
        if self.process is None or self.process.poll() is None:
            return None
        status = self.process.returncode
        kill_group(self.process.pid)  # pool children without their parent
        self.process = None
        settled = self._clock() - self._started_at >= SETTLED_SECONDS
        self.quick_deaths = 0 if settled else self.quick_deaths + 1
        self._due = self._clock() + pause_after(max(1, self.quick_deaths))
        return status

    @property
    def hopeless(self) -> bool:
        return self.quick_deaths >= self._deaths

    def forgive(self) -> None:
        """It is due at once, whatever became of it before."""
        self.quick_deaths, self._due = 0, 0.0


class Supervisor:
    """Keeps ``roles`` running. Use it from one thread that stays: the kernel ties the children to it.

    ``out`` gets lines for people, the children's with their name in front; ``logs``: directory of one file a role.
    ``changed(children)`` is told who they are after each start. ``doing(name)``: what a child is still at, for people;
    empty: nothing that is known. ``deaths``: after so many right after their start no further one is tried.
    ``clock``: monotonic seconds.
    """

    def __init__(
        self,
        roles: Sequence[Role],
        *,
        logs: Path,
        out: Say,
        changed: Callable[[dict[str, Identity]], None] | None = None,
        doing: Callable[[str], str] = lambda _name: "",
        deaths: int = QUICK_DEATHS,
        clock: Clock = time.monotonic,
    ) -> None:
        self._children = {role.name: _Child(role, logs / f"{role.name}.log", clock, deaths) for role in roles}
        self._doing = doing
        self._deaths = deaths
        self._width = max((len(name) for name in self._children), default=0)
        self._out = out
        self._changed = changed
        self._clock = clock

    def pid(self, name: str) -> int | None:
        """The pid of a role's process; None while it is down."""
        process = self._children[name].process
        return process.pid if process is not None else None

    def tick(self) -> str | None:
        """Look once: start what is due, show what was printed. Returns the name of a child that will never start."""
        hopeless = None
        for name, child in self._children.items():
            status = child.bury_if_dead()
            self._show(name)
            if status is not None and not child.hopeless:
                self._say(name, f"ended ({how(status)}); starting it again")
            if child.hopeless:
                hopeless = name
                if status is not None:
                    times = "" if self._deaths == 1 else f" {self._deaths} times"
                    self._say(name, f"ended{times} right after its start ({how(status)}); see {child.log}")
            if child.start_if_due() and self._changed is not None:
                self._changed(self._identities())
        return hopeless

    def run(
        self,
        stopping: threading.Event,
        stands: Callable[[], bool] = lambda: True,
        renew: Callable[[], bool] | None = None,
        hurry: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Keep them running until ``stopping`` is set (True), or until one will never start, or what they stand on does
        not stand any more (False).

        ``renew``: whether all of them are to be stopped and started again, which ``hurry`` is for; with it, one that
        does not start waits for that.
        """
        while not stopping.is_set():
            if not stands():
                return False
            if renew is not None and renew():
                self.stop(hurry)
                for child in self._children.values():
                    child.forgive()
            if not stopping.is_set() and self.tick() is not None and renew is None:
                return False
            stopping.wait(TICK_SECONDS)
        return True

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all, rank by rank: SIGTERM, then SIGKILL when their time is over or ``hurry()`` says so."""
        for rank in sorted({child.role.rank for child in self._children.values()}):
            self._stop([child for child in self._children.values() if child.role.rank == rank], hurry)

    def _stop(self, children: list[_Child], hurry: Callable[[], bool]) -> None:
        begun = told = self._clock()
        for child in children:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        while (waited_for := [child for child in children if _runs(child, begun, self._clock())]) and not hurry():
            self._show_all()
            if self._clock() - told >= TOLD_SECONDS:
                told = self._clock()
                for child in waited_for:
                    left = child.role.stop_seconds - (told - begun)
                    what = self._doing(child.role.name) or "what it runs"
                    self._say(child.role.name, f"finishes {what}; killed in {left:.0f} s if it does not")
            threading.Event().wait(TICK_SECONDS)
        for child in children:
            self._end(child)

    def _end(self, child: _Child) -> None:
        if child.process is None:
            return
        if child.process.poll() is None:
            self._say(child.role.name, "did not end in time: killed; what it was doing is taken up by the next start")
        kill(child.process)
        child.process = None
        self._show(child.role.name)

    def _identities(self) -> dict[str, Identity]:
        pids = {name: pid for name in self._children if (pid := self.pid(name)) is not None}
        return {name: identity for name, pid in pids.items() if (identity := identify(pid)) is not None}

    def _show_all(self) -> None:
        for name in self._children:
            self._show(name)

    def _show(self, name: str) -> None:
        for line in self._children[name].follower.lines():
            self._say(name, one_line(line))

    def _say(self, name: str, line: str) -> None:
        self._out(f"{name:<{self._width}} | {line}")


def how(status: int) -> str:
    """How a process ended, for people."""
    return f"signal {-status}" if status < 0 else f"status {status}"


def _runs(child: _Child, begun: float, now: float) -> bool:
    return child.process is not None and child.process.poll() is None and now - begun < child.role.stop_seconds
