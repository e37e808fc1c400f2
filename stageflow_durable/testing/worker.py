"""A worker in the test's own process: what a Celery worker does with a message, without Celery."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.executor import Executed, Executor, Limits
from stageflow_durable.engine.kept_lines import keeping_lines
from stageflow_durable.engine.lease import Owner
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.errors import StoreUnavailable
from stageflow_durable.model.context import Observer
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.roster import Profile
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings import Settings
from stageflow_durable.store.protocol import Store
from stageflow_durable.testing.faults import Crash

AWAY_SECONDS = 2.0
"""How long a message waits when the database is away, as in ``delivery.tasks``."""


class _Mortal(Owner):
    """An owner that does nothing any more once its process is dead."""

    def abandon(self) -> None:
        """Give up the id, unless this is a death: the dead tell nobody."""
        if not isinstance(sys.exception(), Crash):
            super().abandon()

    def end_work(self) -> None:
        """The same of what it had given up before."""
        if not isinstance(sys.exception(), Crash):
            super().end_work()


class InProcessWorker:
    """One worker process, as the others see it: an owner with a lease, which rides messages.

    ``boot`` is its identity: when it dies, another comes with another one. ``alive`` is False once it crashed;
    ``stopping``: it was told to stop, and begins nothing more; ``profile``: what it tells the others of itself.
    """

    def __init__(
        self,
        boot: str,
        store: Store,
        publisher: Publisher,
        pipelines: Mapping[str, Pipeline[Any, Any]],
        settings: Settings,
        world: World,
        *,
        retry: RetryPolicy | None,
        interceptors: Sequence[Any],
        observers: Sequence[Observer],
        profile: Profile,
        callback_url: Callable[[str, str], str],
    ) -> None:
        self.boot = boot
        self.alive = True
        self.stopping = False
        self.profile = profile
        self._joined = False
        self._keeping = keeping_lines if settings.log_bytes else nullcontext
        self._store = store
        self._publisher = publisher
        self._short = settings.short_delay_seconds
        self.owner = _Mortal(store, boot, settings.lease_seconds, world.clock, profile)
        self._executor = Executor(
            store,
            self.owner,
            pipelines,
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
            stopping=lambda: self.stopping,
            publish=self._publish,
            callback_url=callback_url,
        )

    def join(self) -> None:
        """Become an owner, once, as a process does before its first message: the others see what it knows."""
        if not self._joined:
            self.owner.join()
            self._joined = True

    def beat(self) -> None:
        """Renew the lease; the first time, join."""
        if self._joined:
            self.owner.beat()
        else:
            self.join()

    def carry(self, nudge: Nudge) -> Executed | None:
        """Carry one message as far as it goes; None when the database was away and the message comes again."""
        try:
            self.join()
            with self._keeping():
                executed = self._executor.execute(nudge)
        except StoreUnavailable:
            self._publisher.publish((nudge,), AWAY_SECONDS)
            return None
        self._leave(executed)
        return executed

    def _publish(self, nudges: tuple[Nudge, ...]) -> None:
        publish(self._store, self._publisher, nudges)

    def _leave(self, executed: Executed) -> None:
        self._publish(executed.nudges)
        if executed.retry is not None and executed.retry.delay <= self._short:
            publish(self._store, self._publisher, (executed.retry.nudge,), executed.retry.delay)
