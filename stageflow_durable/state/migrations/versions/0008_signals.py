"""Signals that people and programs send to runs (ADR 0041)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "stageflow_signals",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("item", sa.Integer(), server_default=sa.text("0"), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("saved_schema", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("consumed_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("run", "stage", "item", "n", name=op.f("pk_stageflow_signals")),
    )
    op.create_index(
        "ix_stageflow_signals_key",
        "stageflow_signals",
        ["stage", "key"],
        postgresql_where=sa.text("key IS NOT NULL"),
        sqlite_where=sa.text("key IS NOT NULL"),
    )
