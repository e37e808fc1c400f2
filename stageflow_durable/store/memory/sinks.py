"""Sinks in memory: how far each was told, and by whom. Transactions take turns, so what is seen is all there is."""

from __future__ import annotations

from collections.abc import Sequence

from stageflow_durable.model.sinks import Horizon, SinkLease, SinkView
from stageflow_durable.store.memory.rows import EventRecord, SinkRecord, Tables
from stageflow_durable.store.values import FURTHEST_RETRY_SECONDS, MOST_BEHIND, NEVER_CAME_BACK, News
from stageflow_durable.store.views import sink_of, told_of


def opened(tables: Tables, now: float, name: str) -> None:
    """Make a sink known, unless it is: it begins with what happens from now on."""
    if tables.sinks.get(name) is None:
        tables.sinks.put(name, SinkRecord(name, tables.last_position, now))


def horizon(tables: Tables, _now: float, _before: Horizon | None = None) -> Horizon:
    """Up to where all events are there."""
    return Horizon(tables.last_position)


def news(tables: Tables, _now: float, after: int, upto: int, kinds: Sequence[str], limit: int) -> News:
    """Events of these kinds between two positions, in their order."""
    wanted = [(at, row) for at, row in _beyond(tables, after) if at <= upto and row.type.startswith(tuple(kinds))]
    found = wanted[:limit]
    told = tuple((at, told_of(row, tables.runs.get(row.run))) for at, row in found)
    return News(told, upto if len(found) < limit else found[-1][0])


def _beyond(tables: Tables, position: int) -> list[tuple[int, EventRecord]]:
    rows = [(at, tables.events.get(key)) for at, key in sorted(tables.positions.items()) if at > position]
    return [(at, row) for at, row in rows if row is not None]


def taken(tables: Tables, now: float, name: str, owner: str, seconds: float) -> SinkLease | None:
    """The right to tell a sink, for so many seconds; None: another process has it, or it is not yet tried again."""
    row = tables.sinks.get(name)
    if row is None or not _is_free(row, now, seconds):
        return None
    # Against the process that had it: what that one still writes names the old fence.
    if row.owner is not None:
        row = row._replace(tries=row.tries + 1, error=NEVER_CAME_BACK)
    row = row._replace(owner=owner, fence=row.fence + 1, expires_at=now + seconds)
    tables.sinks.put(name, row)
    return SinkLease(name, row.fence, row.position, row.tries)


def _is_free(row: SinkRecord, now: float, seconds: float) -> bool:
    held = row.owner is not None and now <= (row.expires_at or 0.0) <= now + 2 * seconds
    return not held and not now < (row.retry_at or 0.0) <= now + FURTHEST_RETRY_SECONDS


def _mine(tables: Tables, lease: SinkLease) -> SinkRecord | None:
    row = tables.sinks.get(lease.name)
    # Against a process that took the sink over, and against whoever took its row away.
    return row if row is not None and row.fence == lease.fence and row.owner is not None else None


def advanced(
    tables: Tables,
    now: float,
    lease: SinkLease,
    position: int,
    seconds: float,
    *,
    took: bool = False,
    well: bool = False,
) -> bool:
    """It was told up to ``position``; the lease goes on for ``seconds``. False: another process has it by now."""
    row = _mine(tables, lease)
    if row is None:
        return False
    row = row._replace(position=position, expires_at=now + seconds)
    row = row._replace(delivered_at=now) if took else row
    tables.sinks.put(lease.name, row._replace(tries=0, error=None, retry_at=None) if well else row)
    return True


def refused(tables: Tables, now: float, lease: SinkLease, position: int, error: str, seconds: float) -> bool:
    """It was told up to ``position`` and refused the next event; it is tried again in ``seconds``, by whoever takes it
    then. False: another process has it by now.
    """
    row = _mine(tables, lease)
    if row is None:
        return False
    tries = 1 if position > lease.position else row.tries + 1
    row = row._replace(position=position, tries=tries, error=error, retry_at=now + seconds)
    tables.sinks.put(lease.name, row._replace(owner=None, expires_at=None))
    return True


def left(tables: Tables, _now: float, lease: SinkLease) -> None:
    """Whoever had it does not tell it any more."""
    row = _mine(tables, lease)
    if row is not None:
        tables.sinks.put(lease.name, row._replace(owner=None, expires_at=None))


def freed(tables: Tables, _now: float, owner: str) -> None:
    """A process was seen to end: others may tell at once what it told."""
    for row in [row for row in tables.sinks if row.owner == owner]:
        tables.sinks.put(row.name, row._replace(owner=None, expires_at=None))


def forgotten(tables: Tables, _now: float, name: str) -> bool:
    """Forget a sink; returns whether it was known."""
    known = tables.sinks.get(name) is not None
    tables.sinks.remove(name)
    return known


def seen(tables: Tables, now: float) -> list[SinkView]:
    """Every sink, by name."""
    return [_view(tables, row, now) for row in sorted(tables.sinks, key=lambda row: row.name)]


def _view(tables: Tables, row: SinkRecord, now: float) -> SinkView:
    beyond = _beyond(tables, row.position)[:MOST_BEHIND]
    return sink_of(row, len(beyond), beyond[0][1].at if beyond else None, now)


def is_untold(tables: Tables, run: str) -> bool:
    """Whether a sink has still to be told of an event of the run."""
    told = min((row.position for row in tables.sinks), default=None)
    return told is not None and any((row.position or 0) > told for row in tables.events.every(run))
