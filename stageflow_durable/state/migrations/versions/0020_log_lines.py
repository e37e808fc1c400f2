"""Attempts keep what they logged (ADR 0056)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

locks = ("attempts",)


def upgrade() -> None:
    """Add the column, and an index over what there is of it: nothing yet."""
    op.add_column("stageflow_attempts", sa.Column("log", sa.Text(), nullable=True))
    has_one = sa.text("log IS NOT NULL")
    op.create_index(
        "ix_stageflow_attempts_logged",
        "stageflow_attempts",
        ["ended_at"],
        postgresql_where=has_one,
        sqlite_where=has_one,
    )
