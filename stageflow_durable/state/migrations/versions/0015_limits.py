"""Slots of limits that all workers share (ADR 0049)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    name = sa.String(length=255)
    op.create_table(
        "stageflow_limits",
        sa.Column("name", name, nullable=False),
        sa.Column("amount", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_stageflow_limits")),
    )
    op.create_table(
        "stageflow_pools",
        sa.Column("name", name, nullable=False),
        sa.Column("key", name, nullable=False),
        sa.PrimaryKeyConstraint("name", "key", name=op.f("pk_stageflow_pools")),
    )
    op.create_table(
        "stageflow_slots",
        sa.Column("name", name, nullable=False),
        sa.Column("key", name, nullable=False),
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("strand", name, nullable=False),
        sa.Column("stage", name, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("gen", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=True),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("turn", sa.Text(), nullable=False),
        sa.Column("short", sa.Boolean(), nullable=False),
        sa.Column("behind", sa.Text(), nullable=False),
        sa.Column("offered_at", sa.Double(), nullable=True),
        sa.Column("passed_at", sa.Double(), nullable=True),
        sa.Column("until", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", "key", "run", "strand", "stage", "attempt", name=op.f("pk_stageflow_slots")),
    )
    op.create_index("ix_stageflow_slots_run", "stageflow_slots", ["run"])
    for index, column in (("offered", "offered_at"), ("lost", "until")):
        where = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_stageflow_slots_{index}",
            "stageflow_slots",
            [column],
            postgresql_where=where,
            sqlite_where=where,
        )
