"""Attempts say where they raised (ADR 0052)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

locks = ("attempts",)


def upgrade() -> None:
    """Add the column, and an index over what there is of it: nothing yet."""
    op.add_column("stageflow_attempts", sa.Column("trace", sa.Text(), nullable=True))
    has_one = sa.text("trace IS NOT NULL")
    op.create_index(
        "ix_stageflow_attempts_traced",
        "stageflow_attempts",
        ["ended_at"],
        postgresql_where=has_one,
        sqlite_where=has_one,
    )
