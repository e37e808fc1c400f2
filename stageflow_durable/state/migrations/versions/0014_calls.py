"""Saved steps of stages (ADR 0048)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "stageflow_calls",
        sa.Column("run", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=255), nullable=False),
        sa.Column("item", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("call", sa.String(length=64), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("action", sa.String(length=255), nullable=True),
        sa.Column("arguments", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("saved_at", sa.Double(), nullable=True),
        sa.Column("undoable", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("undone_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("run", "stage", "item", "call", name=op.f("pk_stageflow_calls")),
    )
