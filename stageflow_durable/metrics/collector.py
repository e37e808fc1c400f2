"""The metrics as Prometheus's client collects them. Needs ``prometheus_client``, which Flower brings."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from stageflow_durable.engine.lease import Pulse
from stageflow_durable.errors import StageflowError
from stageflow_durable.masking import masking
from stageflow_durable.metrics.counts import BUCKETS, Counts, Durations, Labels
from stageflow_durable.model.sinks import Horizon
from stageflow_durable.model.status import AT_REST, RunStatus

if TYPE_CHECKING:
    from stageflow_durable.store.protocol import Store

log = masking(logging.getLogger("stageflow.metrics"))

EVERY_SECONDS = 5.0
"""How old what is collected may be: whoever scrapes never waits for the database."""

SINK = "metrics"
"""By this name the database knows that events are counted."""

TOGETHER = 2000
ROUNDS = 10
"""Events that are read at once, and how often in a row: what is left is counted a few seconds later."""

MOST = 100_000
"""Rows up to which a gauge counts."""

_GOING = tuple(status for status in RunStatus if status not in AT_REST)
_STUCK = (RunStatus.PARKED, RunStatus.COMPENSATION_FAILED)


class StageflowCollector(Collector):
    """Counts what happens from the first scrape on, and measures how the tables stand. One for each registry."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._counts = Counts()
        self._position: int | None = None
        self._pending: Horizon | None = None
        self._gauges: list[Metric] = []
        self._up = False
        self._pulse = Pulse("stageflow-metrics", EVERY_SECONDS, self._refresh_noted, at_once=True)
        self._refreshed = threading.Event()

    def describe(self) -> Iterable[Metric]:
        """Nothing is asked for while it is registered."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """What was found last. The first time it waits for the database, for two seconds at the most."""
        self._pulse.ensure()
        self._refreshed.wait(2.0)
        yield GaugeMetricFamily("stageflow_up", "Whether the database answered.", value=float(self._up))
        yield from self._gauges
        yield from self._counted()

    def _refresh_noted(self) -> None:
        try:
            self.refresh()
        except StageflowError:
            self._up = False
            raise
        finally:
            self._refreshed.set()

    def refresh(self) -> None:
        """Read what is new. Raises StoreUnavailable."""
        self._count()
        self._gauges = list(self._measured())
        self._up = True

    def _count(self) -> None:
        if self._position is None:
            self._store.open_sink(SINK)
        for _round in range(ROUNDS):
            horizon = self._store.horizon(self._pending)
            self._pending = horizon if horizon.writers else None
            if self._pending is not None:
                return
            if self._position is None:
                self._position = horizon.position
            news = self._store.news(self._position, horizon.position, ("",), TOGETHER)
            for _position, event in news.events:
                self._counts.add(event)
            self._position = news.position
            if len(news.events) < TOGETHER:
                break
        self._let_prune()

    def _let_prune(self) -> None:
        """Whoever counts, counts for itself: the row says only that pruning need not wait."""
        lease = self._store.take_sink(SINK, f"metrics:{os.getpid()}", 60.0)
        if lease is not None:
            self._store.advance_sink(lease, max(lease.position, self._position or 0), 60.0, took=True, well=True)
            self._store.leave_sink(lease._replace(position=self._position or 0))

    # --- families -----------------------------------------------------------------------------------------------------

    def _counted(self) -> Iterator[Metric]:
        counts = self._counts
        runs = CounterMetricFamily(
            "stageflow_runs_events", "Runs by what became of them.", labels=("pipeline", "event")
        )
        _fill(runs, counts.runs)
        keys = CounterMetricFamily(
            "stageflow_idempotency", "Business keys that were known.", labels=("pipeline", "answer")
        )
        _fill(keys, counts.keys)
        seconds = HistogramMetricFamily(
            "stageflow_attempt_seconds",
            "How long attempts took.",
            labels=("pipeline", "stage", "kind", "result"),
        )
        for labels, durations in tuple(counts.attempts.items()):
            seconds.add_metric(list(labels), _buckets(durations), durations.total)
        yield from (runs, keys, seconds)

    def _measured(self) -> Iterator[Metric]:
        going = GaugeMetricFamily("stageflow_runs", "Runs that are not over, by status.", labels=("status",))
        for status, count in self._store.counted((*_GOING, *_STUCK), MOST).items():
            going.add_metric([status], count)
        measured = self._store.measured(MOST)
        parked = GaugeMetricFamily("stageflow_runs_parked", "Parked runs by reason.", labels=("pipeline", "reason"))
        for pipeline, reason, count in measured.parked:
            parked.add_metric([pipeline, reason], count)
        yield from (going, parked)
        if measured.sweep_age is not None:
            yield _gauge("stageflow_sweep_age_seconds", "Since the last recovery sweep.", measured.sweep_age)
        yield _gauge("stageflow_wait_lateness_seconds", "How late the longest overdue wait is.", measured.lateness)
        yield _gauge("stageflow_workers", "Processes whose leases hold.", measured.workers)
        yield from self._queues(measured.now)
        yield from self._sinks(measured.now)

    def _queues(self, now: float) -> Iterator[Metric]:
        ready = GaugeMetricFamily("stageflow_queue_ready", "What is ready and not begun.", labels=("queue",))
        age = GaugeMetricFamily(
            "stageflow_queue_age_seconds", "Since the oldest message of what is ready was sent.", labels=("queue",)
        )
        for queue in self._store.queued(MOST):
            ready.add_metric([queue.queue], queue.ready)
            age.add_metric([queue.queue], max(0.0, now - queue.oldest) if queue.oldest is not None else 0.0)
        yield from (ready, age)

    def _sinks(self, now: float) -> Iterator[Metric]:
        behind = GaugeMetricFamily(
            "stageflow_sink_behind_seconds", "Since the first event that a sink was not told of.", labels=("sink",)
        )
        refused = GaugeMetricFamily(
            "stageflow_sink_refusals", "How often in a row a sink refused its next event.", labels=("sink",)
        )
        for view in self._store.sinks():
            since = view.behind_since
            behind.add_metric([view.name], 0.0 if since is None else max(0.0, now - since.timestamp()))
            refused.add_metric([view.name], view.tries)
        yield from (behind, refused)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)


def _fill(family: CounterMetricFamily, counts: dict[Labels, int]) -> None:
    for labels, count in tuple(counts.items()):
        family.add_metric(list(labels), count)


def _buckets(durations: Durations) -> list[tuple[str, float]]:
    bounds = (*map(str, BUCKETS), "+Inf")
    return [(bound, float(sum(durations.within[: n + 1]))) for n, bound in enumerate(bounds)]
