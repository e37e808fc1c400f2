"""The engine inside one worker process: its owner, its rider, its pulses."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from stageflow_durable.clock import World
from stageflow_durable.delivery.consumer import boot_id
from stageflow_durable.engine.accept import publish
from stageflow_durable.engine.handle import inside_stage
from stageflow_durable.engine.lease import Owner, Pulse
from stageflow_durable.engine.ports import Publisher
from stageflow_durable.engine.recover import Patience, Sweeper
from stageflow_durable.engine.ride import Limits, Rider, Rode
from stageflow_durable.idempotency.nudges import NudgeGate
from stageflow_durable.model.pipeline import Pipeline
from stageflow_durable.model.policy import RetryPolicy
from stageflow_durable.model.run import SweepReport
from stageflow_durable.model.work import Nudge
from stageflow_durable.settings import Settings
from stageflow_durable.state.store import Store

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
    ) -> None:
        self.queue = settings.queue
        self.short_delay = settings.short_delay_seconds
        self.pid = os.getpid()
        self._store = store
        self._publisher = publisher
        self._gate = NudgeGate(redis_url)
        self._token = f"{boot_id()}-{self.pid}"
        self._gate_ms = int(settings.lease_seconds * 1000)
        self._local = threading.local()
        self._owners: list[Owner] = []
        self._make_owner = partial(Owner, store, boot_id(), settings.lease_seconds, world.clock)
        self._sweep_seconds = settings.sweep_seconds
        patience = Patience(settings.lease_seconds, max_lost=settings.max_recoveries)
        self._sweeper = Sweeper(
            store, publisher, patience, lambda: all(owner.may_judge for owner in tuple(self._owners))
        )
        self._make_rider = partial(
            Rider,
            store,
            pipelines=pipelines,
            world=world,
            retry=retry,
            interceptors=interceptors,
            limits=Limits(
                settings.in_place_stages, settings.in_place_seconds, payload_bytes=settings.max_payload_bytes
            ),
            stopping=lambda: stopping,
            publish=self.publish,
        )
        self._pulses = (
            Pulse("stageflow-heartbeat", settings.lease_seconds / 4, self._beat),
            Pulse("stageflow-sweep", settings.sweep_seconds, self._sweep_in_turn),
        )

    def _rider(self) -> Rider:
        """This thread's: what one thread holds must not end with another's mishap. A prefork child has one."""
        rider: Rider | None = getattr(self._local, "rider", None)
        if rider is None:
            owner = self._make_owner()
            self._owners.append(owner)
            rider = self._local.rider = self._make_rider(owner=owner)
        return rider

    def _beat(self) -> None:
        for owner in tuple(self._owners):
            owner.beat()

    def start(self) -> None:
        """Join as an owner (raises StoreUnavailable), begin to beat and to sweep."""
        self._rider()
        self._owners[0].join()
        for pulse in self._pulses:
            pulse.ensure()

    def stop(self) -> None:
        """Tell the others that this process ends."""
        for pulse in self._pulses:
            pulse.stop()
        for owner in self._owners:
            owner.retire()

    def first(self, key: str) -> bool:
        """Whether this message is not a duplicate of one that was just taken."""
        return self._gate.claim(key, self._token, self._gate_ms)

    def ride(self, nudge: Nudge) -> Rode:
        """Carry a nudge."""
        inside_stage.run = nudge.run_id
        try:
            return self._rider().ride(nudge)
        finally:
            inside_stage.run = None

    def publish(self, nudges: tuple[Nudge, ...], delay: float = 0.0) -> None:
        """Publish, or leave it to the sweep."""
        publish(self._store, self._publisher, nudges, delay)

    def sweep(self) -> SweepReport:
        """Sweep now."""
        return self._sweeper.sweep()

    def _sweep_in_turn(self) -> None:
        # All workers share one rhythm: whoever comes first after the interval sweeps.
        if self._store.my_tick("sweep", self._sweep_seconds * 0.9):
            self._sweeper.sweep()
