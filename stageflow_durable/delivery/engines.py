"""The engines of one Celery application. Celery has one task of a name, so each message of it goes to the engine whose
run it names: the row says which, as it says everything else.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from celery import Celery

from stageflow_durable.delivery.consumed import is_worker_of
from stageflow_durable.delivery.process import Process
from stageflow_durable.errors import ConfigurationError, StageflowError
from stageflow_durable.model.keys import is_run_id

log = logging.getLogger("stageflow.worker")


class WorkerLifecycle:
    """The engine's part in a worker. ``make``: a new :class:`Process`; ``after_death``: takes over from a child that
    ended.
    """

    def __init__(self, make: Callable[[], Process], after_death: Callable[[int], object]) -> None:
        self._make = make
        self._after_death = after_death
        self._process: Process | None = None
        self.closed = False
        self._starting = threading.Lock()

    def working(self) -> Process:
        """This process as a worker, made at its first message (or at the start of a pool's child)."""
        with self._starting:
            if self._process is None or self._process.pid != os.getpid():
                process = self._make()
                process.start()
                self._process, self.closed = process, False
            return self._process

    def child_started(self) -> None:
        """A pool's child begins, or a worker without children: beat and sweep before the first message too."""
        try:
            self.working()
        except StageflowError as error:  # nothing is set, or wrongly: each message will say so as well
            log.error("this process cannot work: %s", error)  # noqa: TRY400  # the text names the way out

    def child_ends(self) -> None:
        """This process ends by itself."""
        if self._process is not None and self._process.pid == os.getpid():
            self._process.stop()

    def child_lost(self, pid: int) -> None:
        """The parent saw a child gone: take its work at once."""
        self._after_death(pid)

    def close(self) -> None:
        """End what was started here."""
        self.child_ends()
        self._process, self.closed = None, True


@dataclass(frozen=True, slots=True)
class Member:
    """One engine of an application. ``queues``: those that its runs use; ``quick_acks``: see ``unacked``;
    ``require_usable``: raises ConfigurationError where no stage could run.
    """

    name: str
    engine: Any
    lifecycle: WorkerLifecycle
    queues: Callable[[], tuple[str, ...]]
    quick_acks: Callable[[], bool]
    require_usable: Callable[[], object]


class Engines:
    """The engines of an application, in the order in which they were built."""

    def __init__(self) -> None:
        self._members: dict[str, Member] = {}

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members.values()))

    def add(self, member: Member) -> None:
        """One more. Raises ConfigurationError where another of its name is in use: neither would get its messages."""
        other = self._members.get(member.name)
        if other is not None and not other.lifecycle.closed:
            raise ConfigurationError(
                f"the Celery application already has an engine named {member.name!r}; give both their own names, or "
                "all pipelines to one engine (close() the other first where it is to be replaced)"
            )
        self._members[member.name] = member

    def processes(self) -> list[Process]:
        """This process as a worker of each engine."""
        return [member.lifecycle.working() for member in self]

    def process_of(self, run_id: object) -> Process:
        """This process as a worker of the engine that a run belongs to. Raises StoreUnavailable."""
        processes = self.processes()
        if len(processes) == 1 or not (isinstance(run_id, str) and is_run_id(run_id)):
            return processes[0]
        return max(processes, key=lambda process: process.nearness(run_id))  # the first of equals

    def child_started(self) -> None:
        """A process of the worker begins."""
        for member in self:
            if is_worker_of(member.name):
                member.lifecycle.child_started()

    def child_ends(self) -> None:
        """This process ends by itself."""
        for member in self:
            member.lifecycle.child_ends()

    def child_lost(self, pid: int) -> None:
        """The parent saw a child gone."""
        for member in self:
            member.lifecycle.child_lost(pid)


_OF: WeakKeyDictionary[Celery, Engines] = WeakKeyDictionary()


def engines_of(app: Celery) -> tuple[Engines, bool]:
    """The engines of an application, and whether it had none before."""
    found = _OF.get(app)
    if found is not None:
        return found, False
    return _OF.setdefault(app, Engines()), True
