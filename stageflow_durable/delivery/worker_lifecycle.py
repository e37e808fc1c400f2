"""What an engine does as a worker's processes come and go."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable

from stageflow_durable.delivery.process import Process
from stageflow_durable.errors import StageflowError

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
