"""The scene that is driven: the engine's view of its runs, and the processes that can be hit."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from stageflow_durable import Engine, embedded
from stageflow_durable.demo.chaos import Target
from stageflow_durable.demo.mischief import Fault
from stageflow_durable.demo.processes import WorkerProcess
from stageflow_durable.model.run import RunSummary, WorkerView


class Stage(Protocol):
    """What runs behind a scene."""

    @property
    def broker(self) -> embedded.Embedded:
        """The one-machine mode."""

    @property
    def workers(self) -> Sequence[WorkerProcess]:
        """Those that can be hit."""

    @property
    def engine(self) -> Engine:
        """What is asked about runs and owners."""

    def runs(self) -> Sequence[RunSummary]:
        """The runs that are watched."""

    def served(self) -> Mapping[str, int]:
        """Requests at outside services, by fate."""


class LiveScene:
    """Real processes; ``chance`` chooses who is hit."""

    def __init__(self, stage: Stage, chance: random.Random) -> None:
        self._stage = stage
        self._chance = chance
        self._blows = {
            Target.CHILD: self._kill_child,
            Target.WORKER: self._kill_worker,
            Target.BROKER: self._kill_broker,
        }

    def statuses(self) -> Mapping[str, int]:
        """Runs by status."""
        return Counter(str(run.status) for run in self._stage.runs())

    def spoiled(self) -> int:
        """Requests that did not go as they should."""
        return sum(count for fate, count in self._stage.served().items() if fate != Fault.NONE)

    def heal(self) -> None:
        """Start workers that died, as a supervisor would; the broker has a keeper of its own."""
        for worker in self._stage.workers:
            worker.revive()

    def strike(self, target: Target) -> str | None:
        """SIGKILL to one such target; what was hit, or None when none is at work just now."""
        return self._blows[target]()

    def _kill_child(self) -> str | None:
        busy = self._busy_children()
        if not busy:
            return None
        victim = self._chance.choice(busy)
        with suppress(ProcessLookupError):
            os.kill(victim.pid, signal.SIGKILL)
        return f"pool child {victim.pid} killed{_in(victim)}"

    def _kill_worker(self) -> str | None:
        pids = [child.pid for child in self._busy_children()]
        busy = [worker for worker in self._stage.workers if any(worker.owns(pid) for pid in pids)]
        if not busy:
            return None
        victim = self._chance.choice(busy)
        victim.kill()
        return f"{victim.name} (pid {victim.pid} and its pool) killed"

    def _kill_broker(self) -> str | None:
        pid = self._stage.broker.broker_pid
        if pid is None:
            return None
        os.kill(pid, signal.SIGKILL)
        return f"Valkey {pid} killed"

    def _busy_children(self) -> list[WorkerView]:
        # A pid in a table may belong to somebody else by now: only processes of our own workers' sessions are hit.
        owned = (owner for owner in self._stage.engine.workers() if owner.alive and owner.running)
        return [owner for owner in owned if any(worker.owns(owner.pid) for worker in self._stage.workers)]


def _in(victim: WorkerView) -> str:
    return f" in {victim.running[0].rpartition('/')[2]}" if victim.running else ""
