"""Looking at everything at once, at a bounded cost: a few questions of the store, each of a bounded number of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from stageflow_durable.clock import as_moment
from stageflow_durable.model.overview import Overview, QueueView, busy_on, rates_of, waits_of
from stageflow_durable.model.run import WorkerView
from stageflow_durable.model.status import AT_REST, RunStatus
from stageflow_durable.store.protocol import Store
from stageflow_durable.store.values import ATTENTION, Filter, Queued

MOST_COUNTED = 10_000
"""Rows that one count goes through."""

MOST_LISTED = 1000
"""Runs that began lately, of which rates are told."""

MOST_WAITING = 200
"""Waiting runs of which it is looked up what they wait for."""

MOST_QUEUES = 20
"""Queues whose depth the broker is asked for."""

LATELY_SECONDS = 300.0

_COUNTED = (*(status for status in RunStatus if status not in AT_REST), *ATTENTION)


def overview(store: Store, depth: Callable[[str], int | None], now: float) -> Overview:
    """What happens at ``now``, by the engine's clock. Raises StoreUnavailable."""
    workers = store.workers()
    lately = store.summaries(Filter(since=now - LATELY_SECONDS, limit=MOST_LISTED))
    waiting = store.summaries(Filter(status=(RunStatus.PENDING, RunStatus.WAITING), limit=MOST_WAITING))
    counts = store.counted(_COUNTED, MOST_COUNTED)
    partial = [
        name
        for name, is_cut in (
            ("rates", len(lately) == MOST_LISTED),
            ("waits", len(waiting) == MOST_WAITING),
            *((status.value, number == MOST_COUNTED) for status, number in counts.items()),
        )
        if is_cut
    ]
    return Overview(
        at=as_moment(now),
        workers=tuple(worker for worker in workers if worker.ended_at is None),
        counts=counts,
        most=MOST_COUNTED,
        queues=_queues(workers, store.queued(MOST_COUNTED), depth),
        rates=rates_of(lately),
        lately=LATELY_SECONDS,
        waits=waits_of(waiting),
        looked_at=len(waiting),
        partial=tuple(partial),
    )


def _queues(
    workers: list[WorkerView], waiting: list[Queued], depth: Callable[[str], int | None]
) -> tuple[QueueView, ...]:
    ready = {one.queue: one for one in waiting}
    served = [queue for worker in workers if worker.alive for queue in worker.queues]
    views = [
        QueueView(
            name,
            served.count(name),
            busy_on(workers, name),
            None,
            ready[name].ready if name in ready else 0,
            None if name not in ready or (sent := ready[name].oldest) is None else as_moment(sent),
        )
        for name in sorted({*served, *ready})
    ]
    busiest = sorted(views, key=lambda view: -view.ready)[:MOST_QUEUES]
    depths = {view.name: depth(view.name) for view in busiest}
    return tuple(replace(view, depth=depths.get(view.name)) for view in views)
