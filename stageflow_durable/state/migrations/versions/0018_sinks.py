"""Sinks are told of events: each event has a position, and each sink a row that says how far it was told (ADR 0053)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

locks = ("events",)
"""The index reads every row once."""

_EVENTS, _POSITION = "stageflow_events", "stageflow_events_position"
_HAVE_ONE = "position IS NOT NULL"


def upgrade() -> None:
    """Add the position and the table. Events that are there have no position: a sink begins with what comes after it.
    What older workers write gets one too, since the database gives it.
    """
    times: list[sa.Column[float]] = [
        sa.Column(name, sa.Double(), nullable=True) for name in ("expires_at", "retry_at", "delivered_at")
    ]
    op.create_table(
        "stageflow_sinks",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("fence", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        *times,
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stageflow_sinks")),
    )
    op.add_column(_EVENTS, sa.Column("position", sa.BigInteger(), nullable=True))
    op.create_index(
        "ix_stageflow_events_position",
        _EVENTS,
        ["position"],
        unique=False,
        postgresql_where=sa.text(_HAVE_ONE),
        sqlite_where=sa.text(_HAVE_ONE),
    )
    (_on_postgresql if op.get_bind().dialect.name == "postgresql" else _on_sqlite)()


def _on_postgresql() -> None:
    # No CACHE: a session that drew numbers ahead would write them later than others wrote higher ones.
    op.execute(f"CREATE SEQUENCE {_POSITION} OWNED BY {_EVENTS}.position")
    op.execute(f"ALTER TABLE {_EVENTS} ALTER COLUMN position SET DEFAULT nextval('{_POSITION}')")
    # Who may write to the table draws from it: rights on tables, as they were given before, go on being enough.
    op.execute(f"GRANT USAGE, SELECT ON SEQUENCE {_POSITION} TO PUBLIC")


def _on_sqlite() -> None:
    """One writer at a time: the next number is the highest and one. A sink's counts as well, since the events with the
    highest ones may be pruned. Where there is no sink nothing is written, which would cost half as much again.
    """
    op.execute(f"""
        CREATE TRIGGER {_POSITION} AFTER INSERT ON {_EVENTS}
        WHEN NEW.position IS NULL AND EXISTS (SELECT 1 FROM stageflow_sinks)
        BEGIN
            UPDATE {_EVENTS} SET position = 1 + max(
                coalesce((SELECT position FROM {_EVENTS} WHERE {_HAVE_ONE} ORDER BY position DESC LIMIT 1), 0),
                (SELECT max(position) FROM stageflow_sinks)
            ) WHERE run = NEW.run AND item = NEW.item AND seq = NEW.seq;
        END
    """)  # noqa: S608  # names of ours
