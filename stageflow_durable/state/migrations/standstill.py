"""For migrations that no worker can go through: what it would write next, the new schema refuses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from stageflow_durable.errors import SchemaInUse

_OWNERS = sa.table("stageflow_owners", sa.column("dead_at"), sa.column("expires_at"))


def refuse_while_workers_live() -> None:
    """Raise SchemaInUse while a worker of before is at work. None joins or renews from here on, until the migration is
    over.
    """
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        op.execute("LOCK TABLE stageflow_owners IN SHARE ROW EXCLUSIVE MODE")
    found = living(op.get_bind())
    if found:
        raise SchemaInUse(
            f"worker processes of an older release at work on this database: {found} (stageflow workers). Stop them, "
            "wait for a lease (10 s by default), and upgrade again; nothing was changed"
        )
    # Who lets its lease run out may only be paused: declared dead, it renews no more, and nothing is granted to it.
    op.execute(
        sa.update(_OWNERS).where(_OWNERS.c.dead_at.is_(None)).values(dead_at=_clock(is_postgresql=is_postgresql))
    )


def living(connection: sa.Connection) -> int:
    """How many owners hold a lease."""
    clock = _clock(is_postgresql=connection.dialect.name == "postgresql")
    holds = sa.and_(_OWNERS.c.dead_at.is_(None), _OWNERS.c.expires_at > clock)
    return int(connection.execute(sa.select(sa.func.count()).select_from(_OWNERS).where(holds)).scalar_one())


def _clock(*, is_postgresql: bool) -> sa.ColumnElement[float]:
    given = "extract(epoch FROM clock_timestamp())" if is_postgresql else "(julianday('now') - 2440587.5) * 86400.0"
    return sa.literal_column(given)
