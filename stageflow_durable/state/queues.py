"""What is known of each queue: up to when its messages were served, and when a worker of it last became free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, or_, update

from stageflow_durable.state.clock import now
from stageflow_durable.state.prepared import Prepared
from stageflow_durable.state.tables import queues
from stageflow_durable.store.values import ONE_CLOCK_SECONDS


def _onwards(dialect: Any) -> Any:
    inserting = dialect.insert(queues)
    served_at = inserting.excluded.served_at
    # One that lies ahead of the clock is another clock's.
    behind = or_(queues.c.served_at < served_at, queues.c.served_at > now() + ONE_CLOCK_SECONDS)
    return inserting.on_conflict_do_update(index_elements=["name"], set_={"served_at": served_at}, where=behind)


_SERVED = Prepared(_onwards)


def _became_free(dialect: Any) -> Any:
    made = dialect.insert(queues).values(served_at=0.0, free_at=now())
    return made.on_conflict_do_update(index_elements=["name"], set_={"free_at": now()})


_FREED = Prepared(_became_free)


def _back(column: Any) -> Prepared:
    ahead = column > now() + ONE_CLOCK_SECONDS
    return Prepared(update(queues).where(ahead).values({column.name: now()}))


_SERVED_BACK, _FREE_BACK = _back(queues.c.served_at), _back(queues.c.free_at)


def served(connection: Connection, marks: dict[str, float]) -> None:
    """Note up to when the nudges of each queue were served; never backwards."""
    for queue, at in sorted(marks.items()):
        _SERVED.run(connection, name=queue, served_at=at)


def freed(connection: Connection, names: Iterable[str]) -> None:
    """Note that a worker of these queues has become free."""
    for queue in sorted(names):
        _FREED.run(connection, name=queue)


def moved_back(connection: Connection) -> None:
    """The clock went back: what lies ahead of it now was written before."""
    _SERVED_BACK.run(connection)
    _FREE_BACK.run(connection)
