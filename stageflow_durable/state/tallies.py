"""Counts for people, of a bounded number of rows each, however many runs there are. No locks are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, and_, desc, func, select

from stageflow_durable.model.run import RunSummary
from stageflow_durable.model.status import RunStatus, StrandState
from stageflow_durable.state.clock import ago, now
from stageflow_durable.state.dialect import constant
from stageflow_durable.state.listing import SUMMARY, summaries_of
from stageflow_durable.state.tables import definitions, limits, owners, runs, slots, strands, ticks
from stageflow_durable.store.pools import pools_of
from stageflow_durable.store.values import MOST_PIPELINES, Measured, Pooled, Queued, Tally


def pipelines(connection: Connection) -> list[str]:
    """Names of pipelines that were ever registered, in their order."""
    named = select(definitions.c.pipeline).distinct().order_by(definitions.c.pipeline).limit(MOST_PIPELINES)
    return list(connection.execute(named).scalars())


def tallies(connection: Connection, most: int) -> list[Tally]:
    """What the newest ``most`` runs of each pipeline came to; each follows an index from its end."""
    return [_tally(connection, name, most) for name in pipelines(connection)]


def _tally(connection: Connection, pipeline: str, most: int) -> Tally:
    newest = select(runs.c.created_at, runs.c.status).where(runs.c.pipeline == pipeline)
    rows = connection.execute(newest.order_by(desc(runs.c.created_at)).limit(most + 1)).all()
    return Tally(pipeline, tuple((row.created_at, RunStatus(row.status)) for row in rows[:most]), len(rows) > most)


def counted(connection: Connection, statuses: Iterable[RunStatus], most: int) -> dict[RunStatus, int]:
    """How many runs have each of these statuses, counted up to ``most``."""
    return {status: _count(connection, status, most) for status in statuses}


def _count(connection: Connection, status: RunStatus, most: int) -> int:
    some = select(runs.c.status).where(runs.c.status == constant(status)).limit(most).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())


def keyed(connection: Connection, key: str, client_ids: Sequence[str]) -> list[RunSummary]:
    """Runs that these clients enqueued under a key, by the index that makes it theirs; the newest first."""
    of_any = and_(runs.c.client_id.in_(client_ids), runs.c.pipeline.in_(pipelines(connection)), runs.c.key == key)
    # Sorted here: asked for in order, SQLite would look through all runs of a client.
    rows = connection.execute(select(*SUMMARY).where(of_any).limit(MOST_PIPELINES)).all()
    return summaries_of(connection, sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True))


def clients(connection: Connection, newest: int) -> list[str]:
    """Clients of the newest so many runs, in their order."""
    some = select(runs.c.client_id).order_by(desc(runs.c.created_at), desc(runs.c.id)).limit(newest).subquery()
    return list(connection.execute(select(some.c.client_id).distinct().order_by(some.c.client_id)).scalars())


def queued(connection: Connection, most: int) -> list[Queued]:
    """What is ready in each queue and no worker has taken, counted up to ``most`` altogether."""
    some = select(strands.c.queue, strands.c.published_at).where(strands.c.state == constant(StrandState.READY))
    ready = some.limit(most).subquery()
    by_queue = select(ready.c.queue, func.count(), func.min(ready.c.published_at)).group_by(ready.c.queue)
    return [Queued(*row) for row in connection.execute(by_queue.order_by(ready.c.queue)).all()]


def pooled(connection: Connection, most: int) -> list[Pooled]:
    """The slots of limits, of ``most`` that are held or waited for; those that most wait for first."""
    found = connection.execute(select(limits))
    amounts = {row.name: row.amount if row.set_amount is None else row.set_amount for row in found}
    wanted = select(*(slots.c[name] for name in ("name", "key", "run", "stage", "attempt", "since", "until")))
    return pools_of(amounts, connection.execute(wanted.limit(most)).all())


def measured(connection: Connection, most: int) -> Measured:
    """Numbers for who watches."""
    some = select(runs.c.pipeline, runs.c.park_reason).where(runs.c.status == constant(RunStatus.PARKED)).limit(most)
    parked = some.subquery()
    by_reason = select(parked.c.pipeline, parked.c.park_reason, func.count()).group_by(*parked.c)
    due = and_(strands.c.state == constant(StrandState.WAITING), strands.c.wake_at <= ago(0.0))
    swept = select(func.max(ticks.c.at)).where(ticks.c.name.startswith("sweep"))
    alive = select(func.count()).select_from(owners).where(owners.c.dead_at.is_(None), owners.c.expires_at > ago(0.0))
    asked = (now(), swept, select(func.min(strands.c.wake_at)).where(due), alive)
    at, swept_at, due_at, workers = connection.execute(
        select(*(one if one is asked[0] else one.scalar_subquery() for one in asked))
    ).one()
    found = tuple((pipeline, str(reason), count) for pipeline, reason, count in connection.execute(by_reason))
    age = None if swept_at is None else max(0.0, at - swept_at)
    return Measured(at, tuple(sorted(found)), age, 0.0 if due_at is None else max(0.0, at - due_at), workers)
